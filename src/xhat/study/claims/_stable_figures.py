"""What the claim "stable-training" shows: losses over steps, failures over rates, a table, sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from xhat.lang import listed, say
from xhat.study.claims._span import span_curve
from xhat.study.claims._stability import failing, rate_of_spikes
from xhat.study.claims._tuned import Tuned
from xhat.study.curves import ARM_NAMES
from xhat.study.outcome import Outcome
from xhat.study.result import Axis, Curve, Figure, Panel, Table

ARMS = ("none", "batch")

Trained = Mapping[str, Sequence[Outcome]]  # by arm, one a seed
Failed = Mapping[str, Mapping[float, Sequence[Outcome]]]  # by arm and rate


def losses_figure(seen: Sequence[tuple[str, Trained]], rate: float) -> Figure:
    """Draw the losses of all seeds at the shared rate."""
    panels = []
    for name, same in seen:
        curves = [
            span_curve(
                ARM_NAMES[arm],
                arm,
                range(len(same[arm][0].loss)),
                [outcome.loss for outcome in same[arm]],
            )
            for arm in ARMS
        ]
        panels.append(
            Panel(name, Axis("training step"), Axis("batch loss (cross-entropy)", log=True), tuple(curves))
        )
    return Figure(
        id="stable-training-losses",
        title=say("Losses of all seeds at learning rate {rate:g}", rate=rate),
        caption=(
            "Lines: median over seeds of the loss of a batch. Bands: from the lowest seed to the highest; a "
            "spike of a single seed shows at the upper edge. Losses that are not finite are left out."
        ),
        alt=listed([_spiking(name, same) for name, same in seen], " "),
        panels=tuple(panels),
    )


def failures_figure(seen: Sequence[tuple[str, Failed]]) -> Figure:
    """Draw the share of seeds that fail against the learning rate."""
    panels = []
    for name, tried in seen:
        curves = [
            Curve(
                ARM_NAMES[arm],
                arm,
                tuple(tried[arm]),
                tuple(100 * float(np.mean(failing(outcomes))) for outcomes in tried[arm].values()),
                mode="lines+markers",
            )
            for arm in ARMS
        ]
        panels.append(
            Panel(name, Axis("learning rate", log=True), Axis("seeds that fail (%)"), tuple(curves))
        )
    return Figure(
        id="stable-training-failures",
        title="Who fails at which learning rate",
        caption=(
            "Per cent of seeds that become infinite or end above half of chance. Larger networks try all "
            "rates with their first seeds only. This measures the range of rates, as larger-lr does."
        ),
        alt=listed([_failing_words(name, tried) for name, tried in seen], " "),
        panels=tuple(panels),
    )


def _share(by_rate: Mapping[float, Sequence[Outcome]], *, infinite: bool = False) -> float:
    """Return the per cent of runs over all rates that fail."""
    return 100 * float(np.mean([failing(outcomes, infinite=infinite) for outcomes in by_rate.values()]))


def table(seen: Sequence[tuple[str, Trained, Trained, Mapping[str, Tuned], Failed]]) -> Table:
    """Return what was counted, by network and arm."""
    rows = []
    for name, same, plains, best, tried in seen:
        for arm in ARMS:
            accuracy = best[arm].accuracy
            rows.append(
                (
                    name,
                    ARM_NAMES[arm],
                    _per_cent(same[arm]),
                    _per_cent(plains[arm]),
                    best[arm].rate,
                    _per_cent(best[arm].outcomes),
                    _share(tried[arm]),
                    _share(tried[arm], infinite=True),
                    float(np.median(accuracy)),
                    float(np.abs(accuracy - np.median(accuracy)).mean()),
                )
            )
    return Table(
        "What was counted",
        (
            "network",
            "arm",
            "spikes at the shared rate (% of steps)",
            "spikes at the plain network's best rate (% of steps)",
            "best rate",
            "spikes there (% of steps)",
            "failures (% of seeds and rates)",
            "of these infinite (% of seeds and rates)",
            "test accuracy (%), median",
            "mean distance from it (points)",
        ),
        tuple(rows),
    )


def _per_cent(outcomes: Sequence[Outcome]) -> float | str:
    """Return the mean rate of spikes of the seeds that train."""
    rates = [rate_of_spikes(outcome) for outcome in outcomes if outcome.trains]
    known = [rate for rate in rates if np.isfinite(rate)]
    return 100 * float(np.mean(known)) if known else "not known"


def _spiking(name: str, same: Trained) -> str:
    parts = []
    for arm in ARMS:
        share = _per_cent(same[arm])
        if isinstance(share, str):
            parts.append(say("{arm} not known, no seed trains long enough", arm=ARM_NAMES[arm]))
        else:
            parts.append(say("{arm} {share:.2g}% of steps", arm=ARM_NAMES[arm], share=share))
    return say("{network}, loss spikes at the shared rate: {parts}.", network=name, parts=listed(parts, ", "))


def _failing_words(name: str, tried: Failed) -> str:
    parts = [
        say(
            "{arm} {share:.0f}%",
            arm=ARM_NAMES[arm],
            share=_share(tried[arm]),
        )
        for arm in ARMS
    ]
    return say("{network}, runs over all rates that fail: {parts}.", network=name, parts=listed(parts, ", "))


def words(name: str, same: Trained, tried: Failed) -> tuple[str, ...]:
    """Say how often losses leap and runs fail."""
    return _spiking(name, same), _failing_words(name, tried)
