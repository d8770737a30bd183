"""init-insensitive: with BN training does not hang on the scale of the initial weights.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3.3: BN(Wu) = BN((aW)u). That makes the function
independent of the scale, not training: at a fixed learning rate the effective rate goes as 1/a². The claim
measures where that ends it.
Expected there: output and Jacobian do not change with the scale; no accuracy is given.
Cost on 2 cores: quick about 1 minute, full about 5; the runs are easier-search's too.
Command: xhat study --claims init-insensitive
"""

from xhat.lang import say
from xhat.study.claim import Claim, Context, Measurement, Subject
from xhat.study.claims._init_figures import kept_words, losses_table, range_words, rates_table, scales_figure
from xhat.study.claims._init_sweep import (
    CORE,
    KEPT,
    WITHIN,
    Sweeps,
    kept_members,
    kept_sweep,
    lost,
    sweep,
    wider,
)
from xhat.study.claims._search_box import Box, own_box, scales, searched, trained_members
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.subjects import subjects_table

# Committed before the first run; WITHIN and CORE too.
DECADES = 1.0  # by which BN's workable range of scales must be wider

TEXT = ClaimText(
    id="init-insensitive",
    title="Batch norm makes training insensitive to the scale of the initial weights",
    says=(
        "Without BN the variance of the initial Gaussian matters much. With BN, scaling the weights of a "
        "unit scales its standard deviation by the same factor, which cancels."
    ),
    measured=(
        "Initial weights of every layer multiplied by 0.01 to 100. Each arm at its own best learning rate at "
        "scale 1, of 0.01 to 10 (a user's network at 0.1), held fixed over the scales. The workable range: "
        "decades between the outermost scales at which the network trains and its test accuracy lies within "
        f"{WITHIN:g} points of the best of that arm and seed. Beside it: each scale at its own best rate; and, "
        f"in xhat's own network, the scales from {CORE[0]:g} to {CORE[1]:g} with the output layer left at scale "
        "1: no BN stands behind it, and the notes speak of weights before BN."
    ),
    threshold=(
        f"Supported if BN's workable range is wider than the plain network's by more than {DECADES:g} decade, "
        f"and BN's accuracy at every scale from {CORE[0]:g} to {CORE[1]:g} differs less than {WITHIN:g} points "
        "from that at scale 1 (equivalence at each scale; the one whose interval reaches farthest is shown and "
        "decides), each with the whole 95% interval. A range that reaches an end of the scales may be wider "
        "than seen: if the plain network's does in any seed, the first part cannot be supported; if BN's does, "
        "it cannot be contradicted."
    ),
    does_not_show=(
        "The scale is changed in all layers at once, the output layer too, which BN does not normalise; "
        "what is lost where that layer is left as it is stands beside, for xhat's own network. Function "
        "invariance is not training invariance: large weights learn slowly under BN."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.3.",
    expected="[IS]: the layer's output and its Jacobian do not change with the scale; no accuracy is given.",
    cost="quick: about 1 minute; full: about 5 minutes, shared with easier-search",
    changes=(
        "The workable range counted points instead of the distance between them, and the loss was taken "
        "against the best of all scales, which overstates it; a network that does not train counted as "
        "workable. Later the runs became those of easier-search: rates from 0.01 to 10 instead of 0.03 to 0.3, "
        "and in full 300 steps instead of 600. All runs were made anew on other seeds. Of the scales "
        f"from {CORE[0]:g} to {CORE[1]:g} only the one with the largest mean loss was tested, chosen on all seeds; "
        "now every one is, on the seeds that train at scale 1. Where the plain range alone reached an end of the "
        "scales the difference counted as exact, and where both did the seed was left out; such seeds now leave "
        "the interval open. Seeds that train in neither arm at any scale counted as no difference; they are "
        "left out. The arm with the output layer left at scale 1 was added outside the verdict."
    ),
)


def measure(context: Context) -> Measurement:
    """Train every arm at every scale and rate, and compare the ranges of scales that work."""
    if context.user is None:
        box = own_box(context)
    else:
        (subject,) = context.subjects()
        box = Box(subject, (0.1,), scales(5), ("none", "batch"))
    trained, keys = yield from searched(box)
    subject = box.subject
    kept: Sweeps = {}
    if not subject.is_users:  # whose last linear layer need not be the output layer
        left, more = yield from trained_members(subject, kept_members(trained, box))
        keys = (*keys, *more)
        kept = {arm: kept_sweep({**trained, **left}, arm, box) for arm in box.arms if arm[0] in KEPT}
    fixed = {arm: sweep(trained, arm, box) for arm in box.arms}
    own = {arm: sweep(trained, arm, box, own=True) for arm in box.arms}
    effects = _effects(fixed, own, kept, subject)
    return ClaimResult(
        TEXT,
        overall(effects),
        (*range_words(fixed, subject), *kept_words(fixed, kept, subject)),
        tuple(effects),
        (scales_figure(fixed, own, kept, subject),),
        (losses_table(fixed, kept), rates_table(trained, box), subjects_table(subject)),
        runs=keys,
    )


def _effects(fixed: Sweeps, own: Sweeps, kept: Sweeps, subject: Subject) -> list[Effect]:
    none, batch, layer = ((norm, subject.init) for norm in ("none", "batch", "layer"))

    def costs(scale: float) -> str:
        return say(
            "accuracy lost by BN from scale 1 to {scale:g}, {subject}", scale=scale, subject=subject.name
        )

    def costs_kept(scale: float) -> str:
        return say(
            "accuracy lost by BN from scale 1 to {scale:g}, output layer at scale 1, {subject}",
            scale=scale,
            subject=subject.name,
        )

    name = say("workable range of scales, {subject}", subject=subject.name)
    effects = [
        wider(name, fixed, batch, none, threshold=DECADES, primary=True),
        lost(fixed[batch], costs, primary=True),
    ]
    if kept:
        effects.append(lost(kept[batch], costs_kept))
    if layer in fixed:
        own_name = say("workable range, each scale at its own best rate, {subject}", subject=subject.name)
        effects += [
            wider(name, fixed, layer, none, threshold=DECADES),
            wider(own_name, own, batch, none, threshold=DECADES),
        ]
    return effects


CLAIM = Claim(TEXT, measure, takes_networks=True)
