"""Outputs differ between training and evaluation mode for a reason other than batch norm's statistics.

Looked for: the first batch is run with all batch norms normalising by their running statistics and dropout off:
once with all other modules in evaluation mode, twice with them in training mode. Outputs that differ by 0.1 of
their spread over samples or more, and the same way each time, come from code that asks for the mode. Second, four
batches of mixed samples, of 16 or more, are run by their own statistics, whole and in halves, against the
statistics of all batches. Pure batch noise would double in the halves (in mean square); what does not, above 0.25
of the spread and beyond chance (one-sided Student test over batches, 1%), is a norm whose two modes disagree.
Random differences, as of stochastic depth, are not findings.

Why it harms: what was trained is not what is evaluated. Evaluation then is worse than training for a reason that
no more data and no other statistics can mend.

Source: Ioffe and Szegedy 2015, sec. 3.1: evaluation is to compute what training did, with fixed statistics;
pytorch issues 4741 and 5406.

Remedy: find what the forward pass does with `self.training`, and make both modes compute the same but for noise:

    scale = 1.0 if self.training else 0.5   # the kind of line to look for

Repair: none; the code has to change.
"""

import math
from collections.abc import Iterator

from scipy import stats

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.observe import Observed
from xhat.doctor.rule import Rule, found
from xhat.lang import say

BY_MODE = 0.1  # of the outputs' spread: what code that asks for the mode must move
BY_NORMS = 0.25
RATE = 0.01
SMALLEST = 16  # samples; of smaller batches the noise no longer doubles in the halves


def check(case: Case) -> Iterator[Finding]:
    """Compare the modes, statistics being equal."""
    observed = case.observed
    assert observed is not None
    mode, repeated = observed.mode, observed.mode_repeated
    if mode and repeated and mode.relative >= BY_MODE and repeated.relative < mode.relative / 10:
        yield found(
            "BN301",
            "",
            say(
                "with the same statistics and without dropout, outputs in training mode differ from those in "
                "evaluation mode by {by:.2f} of their spread",
                by=mode.relative,
            ),
            evidence={"relative": mode.relative, "repeated": repeated.relative},
            remedy=say(
                "Look for self.training in the forward pass: something other than batch norm and dropout computes "
                "another thing in each mode."
            ),
        )
    rest = beyond_noise(observed)
    if rest is not None and rest >= BY_NORMS:
        yield found(
            "BN301",
            "",
            say(
                "outputs with batch statistics differ from those with the statistics of all batches by {by:.2f} of "
                "their spread, more than the noise of batches explains",
                by=rest,
            ),
            evidence={"relative": rest, "batches": len(observed.chance.halves)},
            remedy=say(
                "Look for a norm that computes another formula in each mode, or that serves several places."
            ),
        )


def beyond_noise(observed: Observed) -> float | None:
    """Return the part of the gap that does not fall with the batch size; None where chance may explain it.

    The noise of batch statistics falls as 1/m, so with d² = b² + v/m and 2v/m in halves, b² = 2d² − d²(halves).
    """
    whole, halves = observed.chance.mixed, observed.chance.halves
    if len(halves) < 3 or len(halves) != len(whole) or min(observed.samples) < SMALLEST:
        return None
    left = [2 * a.square - b.square for a, b in zip(whole, halves, strict=True)]
    mean = sum(left) / len(left)
    if not math.isfinite(mean) or mean <= 0:
        return None
    if min(left) < max(left) and stats.ttest_1samp(left, 0, alternative="greater").pvalue >= RATE:
        return None
    return math.sqrt(mean)


RULE = Rule(
    "BN301", "train-eval-gap", check, needs=frozenset({"batches"}), explained_by=("BN105", "BN303", "BN304")
)
