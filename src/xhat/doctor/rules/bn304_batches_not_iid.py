"""Batches differ from each other by more than chance.

Looked for, both at once. First, in some channel the samples' means differ between batches more than within them:
one-way analysis of variance, an F test a channel, at most 1% false alarms over all channels of all norms
(Bonferroni). Second, outputs with each batch's own statistics are further from those with the statistics of all
batches than they are for batches of the same sizes with mixed samples, by 0.25 of the outputs' spread or more.

Why it harms: in training, every batch is normalised by its own statistics. Where a batch holds one class, or one
source, just that difference is normalised away, and the network learns to judge a sample by its neighbours. In
evaluation, with fixed statistics, the neighbours are gone.

Source: Ioffe 2017, arXiv 1702.03275, sec. 1, on minibatches that are not i.i.d.; Wu and Johnson 2021,
arXiv 2105.07576, sec. 5.

Remedy: shuffle, and mix sources inside each batch:

    DataLoader(data, batch_size=64, shuffle=True)

Repair: none; the batches have to change.
"""

import math
from collections.abc import Iterator
from typing import Any

from xhat.doctor._chance import unlike
from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.observe import Observed
from xhat.doctor.rule import Rule, found
from xhat.lang import Phrase, listed, say

EFFECT = 0.25  # of the outputs' spread


def check(case: Case) -> Iterator[Finding]:
    """Compare the batches with each other, and with batches of mixed samples."""
    observed = case.observed
    assert observed is not None
    effect = effect_of(observed)
    if effect is None or effect < EFFECT:
        return
    tests = unlike(observed.seen)
    beyond = {name: f for name, (f, over) in tests.items() if bool(over.any())}
    if not beyond:
        return
    channels = sum(int(over.sum()) for _, over in tests.values())
    worst = max(beyond, key=lambda name: float(beyond[name].max()))
    evidence: dict[str, Any] = {
        "relative": effect,
        "channels": channels,
        "of_channels": sum(len(over) for _, over in tests.values()),
        "norms": list(beyond),
        "largest_f": float(beyond[worst].max()),
    }
    if observed.classes is not None:
        evidence["classes"] = [list(counts) for counts in observed.classes]
    yield found(
        "BN304",
        "",
        say(
            "{parts}",
            parts=listed(
                [
                    say(
                        "samples of one batch are alike: means differ between batches by more than chance in "
                        "{channels} of {of} channels, most in {worst} (F = {f:.3g})",
                        channels=channels,
                        of=evidence["of_channels"],
                        worst=worst,
                        f=evidence["largest_f"],
                    ),
                    say("that moves outputs in training by {effect:.2f} of their spread", effect=effect),
                    *_classes(observed),
                ]
            ),
        ),
        evidence=evidence,
        remedy=say("Shuffle the samples: DataLoader(…, shuffle=True), and mix sources inside each batch."),
    )


def _classes(observed: Observed) -> Iterator[Phrase]:
    if observed.classes is None:
        return
    held = [sum(count > 0 for count in batch) for batch in observed.classes]
    known = sum(any(counts) for counts in zip(*observed.classes, strict=True))
    yield say(
        "a batch holds {least} to {most} of the {known} classes seen",
        least=min(held),
        most=max(held),
        known=known,
    )


def effect_of(observed: Observed) -> float | None:
    """Return by how much the batches' make-up moves outputs in training, in spreads; None where unknown."""
    given, mixed = observed.chance.given, observed.chance.mixed
    if not given or not mixed:
        return None
    excess = _mean([gap.square for gap in given]) - _mean([gap.square for gap in mixed])
    return math.sqrt(max(excess, 0.0))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


RULE = Rule("BN304", "batches-not-iid", check, needs=frozenset({"batches"}))
