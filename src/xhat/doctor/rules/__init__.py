"""The rules, one a file; the code's hundreds are structure, state, behaviour, steps and ranks."""

from collections.abc import Mapping
from importlib import import_module

from xhat.doctor.rule import Rule

_MODULES = (
    "bn101_bias_before_norm",
    "bn102_dropout_before_norm",
    "bn103_norm_on_logits",
    "bn104_norm_after_norm",
    "bn105_norm_used_twice",
    "bn106_momentum_reversed",
    "bn107_eps_out_of_scale",
    "bn108_weight_decay_on_affine",
    "bn201_statistics_not_finite",
    "bn202_negative_variance",
    "bn203_statistics_never_updated",
    "bn204_half_precision_buffers",
    "bn205_dead_channels",
    "bn206_scale_out_of_range",
    "bn301_train_eval_gap",
    "bn302_statistics_differ",
    "bn303_too_few_values",
    "bn304_batches_not_iid",
    "bn305_eval_depends_on_batch",
    "bn401_frozen_but_drifting",
    "bn402_updated_more_than_once",
    "bn403_microbatches",
    "bn501_ranks_differ",
    "bn502_small_rank_batches",
)

# In the order in which they are applied.
RULES: Mapping[str, Rule] = {
    rule.code: rule for name in _MODULES for rule in [import_module(f"{__name__}.{name}").RULE]
}
