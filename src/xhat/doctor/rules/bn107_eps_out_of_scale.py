"""eps is out of scale with the variances.

Looked for: what eps does to the scale. A normalised channel has the standard deviation √(running_var /
(running_var + eps)), which should be close to 1. Taken is the median over a layer's living channels (those
with more than a millionth of the largest variance). Below 0.1, that is eps above 99 times the variance, it is
a warning: the layer hardly normalises. Below 0.71, eps above the variance, it is info. An eps below 3e-8 is
info too: float16 rounds it to 0.

Why it harms: where eps rules, the norm divides by √eps whatever comes in. Then the layer is no longer
insensitive to the scale of its weights and inputs, which is what allows large learning rates, and its output
is smaller than γ says.

Source: Ioffe and Szegedy 2015, algorithm 1, adds eps “for numerical stability” only. torchvision's
MobileNetV2, a healthy network, has one layer with eps of 1e-5 above the median variance, which keeps 0.40, so
that alone is no fault.

Remedy: scale the inputs, or give the norm an eps well below its variances; then train on, since γ has grown
to make up for it. Weights from TensorFlow need the eps they were trained with, often 1e-3:

    nn.BatchNorm2d(64, eps=1e-5)

Repair: none; eps is part of what the network computes, and of the code.
"""

from collections.abc import Iterator

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.lang import say

ALIVE = 1e-6  # of the layer's largest variance
RULES = 0.1  # standard deviation left of 1
COUNTS = 0.5**0.5  # where eps equals the variance
LOST = 2.0**-25  # half of float16's smallest number


def check(case: Case) -> Iterator[Finding]:
    """Find norms whose eps sets their scale, or is so small that float16 loses it."""
    for name, has in case.with_statistics().items():
        if not has.variance.isfinite().all() or (has.variance < 0).any():
            continue  # BN201 and BN202 say so
        alive = has.variance[has.variance > ALIVE * has.variance.max()]
        left = float((alive / (alive + has.eps)).sqrt().median()) if len(alive) else 1.0
        numbers = {
            "eps": has.eps,
            "median_variance": float(alive.median()) if len(alive) else 0.0,
            "standard_deviation_left": left,
            "alive": len(alive),
            "channels": len(has.variance),
        }
        if left < COUNTS:
            yield found(
                "BN107",
                name,
                say(
                    "eps={eps:g} against a median running_var of {variance:.3g}: a normalised channel keeps a "
                    "standard deviation of {left:.2g}, not 1",
                    eps=has.eps,
                    variance=numbers["median_variance"],
                    left=left,
                ),
                evidence=numbers,
                remedy=say(
                    "Scale what reaches the norm, or make eps well smaller than its variances, and train on."
                )
                if left < RULES
                else say("No fault by itself; keep eps as it was in training when weights are moved."),
                severity=Severity.warning if left < RULES else Severity.info,
            )
        elif name in case.norms and has.eps < LOST:
            yield found(
                "BN107",
                name,
                say(
                    "eps={eps:g} is 0 in float16, and a channel without variance would be divided by 0",
                    eps=has.eps,
                ),
                evidence=numbers,
                remedy=say("Take torch's default, eps=1e-5, unless the variances are smaller than that."),
                severity=Severity.info,
            )


RULE = Rule("BN107", "eps-out-of-scale", check)
