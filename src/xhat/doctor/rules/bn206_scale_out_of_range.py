"""Scale of a norm is out of range.

Looked for: |γ| / √(running_var + eps), by which a norm multiplies its input in evaluation mode, above 10,000
(a warning) or below 1/10,000 (info), on channels that are alive (BN205).

Why it harms: with so large a factor, a difference of the input too small to have shown in training fills the
whole output. float16 ends at 65,504: a factor of 10,000 reaches it at an input of 6.6, and an input whose
standard deviation is 10,000 reaches it before the norm, at 6.6 of them. In float32 a small factor is no harm;
a norm on raw inputs in large units has one.

Source: IEEE 754 binary16. In torchvision's MobileNetV2 the factors of living channels lie between 0.02 and
108.

Remedy: large: look at what comes into the layer; if it hardly varies, its weights or its input are nearly
constant, or eps is too small. Small: scale the input, or keep this part in float32 or bfloat16 under
autocast.

Repair: none; the cause lies before the norm.
"""

from collections.abc import Iterator

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._channels import first, named
from xhat.doctor.rules.bn205_dead_channels import DEAD, output_spread
from xhat.lang import say

LARGE = 1e4
SMALL = 1e-4


def check(case: Case) -> Iterator[Finding]:
    """Find norms that multiply by very large or very small factors."""
    for name, has in case.with_statistics().items():
        if not has.variance.isfinite().all() or (has.variance < 0).any():
            continue  # BN201 and BN202 say so
        spread = output_spread(has)
        alive = spread > DEAD * spread.max()
        factor = has.weight.abs() / (has.variance + has.eps).sqrt()
        large, small = alive & (factor > LARGE), alive & (factor < SMALL)
        evidence = {"channels": len(alive), "large": int(large.sum()), "small": int(small.sum())}
        if large.any():
            most = float(factor[large].max())
            yield found(
                "BN206",
                name,
                say(
                    "{count} of {channels} channels ({which}) are multiplied by more than 10,000, "
                    "at most by {most:.3g}",
                    count=int(large.sum()),
                    channels=len(alive),
                    which=named(large),
                    most=most,
                ),
                evidence=evidence | {"largest": most, "first": first(large)},
                remedy=say("Look at what comes into this layer: it hardly varies, or eps is too small."),
                severity=Severity.warning,
            )
        elif small.any():
            least = float(factor[small].min())
            yield found(
                "BN206",
                name,
                say(
                    "{count} of {channels} channels ({which}) are multiplied by less than 1/10,000, at least by "
                    "{least:.3g}: float16 would overflow before the norm",
                    count=int(small.sum()),
                    channels=len(alive),
                    which=named(small),
                    least=least,
                ),
                evidence=evidence | {"smallest": least, "first": first(small)},
                remedy=say("In float32 nothing is wrong; for float16 scale the input down."),
                severity=Severity.info,
            )


RULE = Rule("BN206", "scale-out-of-range", check)
