"""In evaluation mode a sample's output depends on the other samples of its batch.

Looked for: after `model.eval()` the first batch is run whole, and in two halves. Outputs that differ by more than
0.001 of their spread over samples (0.03 in half precision), which is far above rounding, and by more than two runs of
the whole batch differ. Named are norms that are still in training mode, and norms without running statistics. A
norm in training mode is an error, and so is any difference from 0.05 on.

Why it harms: the same input gets another answer in other company, and none that makes sense alone, with batch size 1.
Results of evaluation depend on the batch size and the order of the samples. A norm that is still in training mode
also changes its running statistics with every evaluation.

Source: Ioffe and Szegedy 2015, sec. 3.1: at inference the output is to depend on the input only.

Remedy: call `model.eval()` after all modules are in place and leave `train` as it is; track running statistics:

    nn.BatchNorm2d(64, track_running_stats=True)

Repair: none; the code has to change. Statistics that a norm does not have, `xhat.recalibrate_` cannot give it.
"""

from collections.abc import Iterator

import torch

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.observe import Observed
from xhat.doctor.rule import Rule, found
from xhat.lang import Phrase, say

ROUNDING = 1e-3  # of the outputs' spread; far above what another order of summing does
ROUNDING_HALF = 0.03
BROKEN = 0.05


def check(case: Case) -> Iterator[Finding]:
    """Compare the outputs of half batches with those of the whole."""
    observed = case.observed
    assert observed is not None
    alone = observed.alone
    if alone.parts is None:
        return
    by = alone.parts.relative
    random = 0.0 if alone.repeated is None else alone.repeated.relative
    if by <= _rounding(case.model) or by < 3 * random:
        return
    names = [*alone.training, *(name for name in alone.untracked if name not in alone.training)]
    yield found(
        "BN305",
        names[0] if len(names) == 1 else "",
        say(
            "in evaluation mode half a batch gives other outputs than the whole, by {by:.2g} of their spread: {why}",
            by=by,
            why=_why(observed),
        ),
        evidence={
            "relative": by,
            "training": list(alone.training),
            "untracked": list(alone.untracked),
        },
        remedy=_remedy(observed),
        severity=Severity.error if by >= BROKEN or alone.training else Severity.warning,
    )


def _why(observed: Observed) -> Phrase:
    alone = observed.alone
    if alone.training:
        return say(
            "{count} norms are still in training mode after model.eval(), {first} first",
            count=len(alone.training),
            first=alone.training[0],
        )
    if alone.untracked:
        return say(
            "{count} norms keep no running statistics, {first} first",
            count=len(alone.untracked),
            first=alone.untracked[0],
        )
    return say("not by a norm of torch's, rather by code that looks at the whole batch")


def _remedy(observed: Observed) -> Phrase:
    if observed.alone.training:
        return say(
            "Find what keeps them in training mode: a train method that is overridden, or .train() called on a part "
            "after model.eval()."
        )
    if observed.alone.untracked:
        return say("Make these norms with track_running_stats=True, then train or recalibrate.")
    return say("Look in the forward pass for means over the batch, or F.batch_norm with training=True.")


def _rounding(model: torch.nn.Module) -> float:
    halves = (torch.float16, torch.bfloat16)
    return ROUNDING_HALF if any(p.dtype in halves for p in model.parameters()) else ROUNDING


RULE = Rule(
    "BN305",
    "eval-depends-on-batch",
    check,
    needs=frozenset({"batches"}),
    explained_by=("BN201", "BN202"),  # NaN is unlike itself
)
