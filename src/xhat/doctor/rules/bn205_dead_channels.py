"""Channels are dead.

Looked for: channels whose output hardly varies. A channel's output has the standard deviation |γ| ·
√(running_var / (running_var + eps)). It is dead where that is at most a thousandth of the largest in its
layer, because γ or the variance of its input is about zero. Faint channels are counted too: those with a
variance below a tenth of eps, which come out at less than a third of |γ|. It is a warning where at least half
of a layer of 8 channels or more is dead; not where all of γ is exactly 0 and nothing was ever trained, as
residual branches are often made.

Why it harms: a dead channel is a constant. It costs time and memory and says nothing; weight decay makes some
in most trained networks, so a few are no fault. With most of a layer dead, the layer does little, or its
input was constant while statistics were taken.

Source: torchvision's MobileNetV2, a healthy network, has 158 channels with a variance below 1e-6, 37 of them
dead. That channels with γ near zero can be taken away is used by Liu et al. 2017, “Learning efficient
convolutional networks through network slimming”, arXiv 1708.06519.

Remedy: none is needed for a few; prune them to save time. For most of a layer: look at what comes in, at the
learning rate, and at weight decay on γ (BN108).

Repair: none; a smaller layer is a change of the code.
"""

from collections.abc import Iterator

from torch import Tensor

from xhat.doctor.case import Case, Statistics
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._channels import first
from xhat.lang import say

DEAD = 1e-3  # of the largest standard deviation in the layer
FAINT = 0.1  # of eps
MANY = 0.5  # of a layer's channels
WIDE = 8  # channels from which on a share is one


def check(case: Case) -> Iterator[Finding]:
    """Find norms with channels that are constant or nearly so."""
    for name, has in case.with_statistics().items():
        if not has.variance.isfinite().all() or (has.variance < 0).any():
            continue  # BN201 and BN202 say so
        spread = output_spread(has)
        dead = spread <= DEAD * spread.max()
        faint = has.variance < FAINT * has.eps
        shown = dead | faint
        if not shown.any():
            continue
        many = len(dead) >= WIDE and float(dead.double().mean()) >= MANY and not _is_made_so(has)
        yield found(
            "BN205",
            name,
            say(
                "{dead} of {channels} channels are dead, {faint} more are faint (variance below eps / 10)",
                dead=int(dead.sum()),
                channels=len(dead),
                faint=int((faint & ~dead).sum()),
            ),
            evidence={
                "channels": len(dead),
                "dead": int(dead.sum()),
                "low_variance": int(faint.sum()),
                "low_weight": int((dead & ~faint).sum()),
                "first": first(dead),
            },
            remedy=say(
                "Look at what reaches this layer, at the learning rate and at weight decay on γ: most of its "
                "channels are constant."
            )
            if many
            else say("Nothing is wrong; dead channels can be pruned to save time."),
            severity=Severity.warning if many else Severity.info,
        )


def output_spread(has: Statistics) -> Tensor:
    """Return the standard deviation of each channel's output in evaluation mode, (C,)."""
    total = has.variance + has.eps
    share = (has.variance / total).where(total > 0, total)  # neither variance nor eps: nothing varies
    return has.weight.abs() * share.sqrt()


def _is_made_so(has: Statistics) -> bool:
    """Whether γ is 0 everywhere and the statistics are a new norm's."""
    new = bool((has.mean == 0).all() and (has.variance == 1).all())
    return new and bool((has.weight == 0).all())


RULE = Rule("BN205", "dead-channels", check)
