from dataclasses import replace

import numpy as np
import pytest

from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.claims._init_sweep import CORE, Sweep, lost, wider
from xhat.study.spec import Member, Network

from ..made import CHANCE, USERS, C, Fate, Fates, I, S, judged, made_run, primary, shaken

CLAIM = CLAIMS["init-insensitive"]


def accuracies(batch: dict[float, float], none: dict[float, float], *, by: float = 0.002) -> Fates:
    """Accuracy by the scale up to which it holds, from small scales to large."""

    def fates(network: Network, member: Member) -> Fate:
        held = batch if network.norm == "batch" else none
        accuracy = next(value for scale, value in held.items() if member.scale <= scale)
        if member.lr != 0.1:
            return Fate(final=2.0, accuracy=0.0)
        return Fate(final=0.3 if accuracy > 0.5 else CHANCE, accuracy=accuracy * shaken(member, by))

    return fates


# The scales are 0.01, 0.0316, ... 100.
WIDE, NARROW, NEVER = {1000.0: 0.85}, {0.5: 0.1, 3.0: 0.8, 1000.0: 0.1}, {1000.0: 0.1}
CLOSED = {0.05: 0.1, 50.0: 0.85, 1000.0: 0.1}  # 0.1 to 31.6
BELOW = {3.0: 0.8, 1000.0: 0.1}  # reaches the lower end


@pytest.mark.parametrize(
    ("batch", "none", "verdict"),
    [
        (WIDE, NARROW, S),
        (CLOSED, NARROW, S),
        (NARROW, WIDE, C),
        (NARROW, NARROW, C),
        (WIDE, WIDE, I),  # nobody knows which is wider
        (CLOSED, BELOW, I),  # wider as seen, but the plain range may go on
        ({3.0: 0.85, 1000.0: 0.7}, NARROW, I),  # wider, but it loses 15 points
        ({0.5: 0.7, 1000.0: 0.85}, NARROW, I),  # the same at small scales
        (NEVER, NARROW, C),
        (NEVER, NEVER, I),
    ],
)
def test_init_insensitive(batch, none, verdict):
    result = judged(CLAIM, accuracies(batch, none))
    assert result.verdict == verdict
    wider_, lost_ = primary(result).values()
    assert wider_.seeds == (0 if batch is none is NEVER else 10)
    assert lost_.seeds == (0 if batch is NEVER else 10)
    assert (lost_.rule, lost_.threshold) == ("within", 5.0)


@pytest.mark.parametrize(
    ("batch", "none", "estimate", "open_", "verdict"),
    [
        (CLOSED, NARROW, 2.5, (False, False), S),
        (WIDE, NARROW, 4.0, (False, True), S),  # at least
        (CLOSED, BELOW, 0.5, (True, False), C),  # at most: less than a decade
        (CLOSED, {0.5: 0.1, 1000.0: 0.8}, 0.5, (True, False), C),
        (BELOW, CLOSED, -0.5, (False, True), I),
        (WIDE, WIDE, 0.0, (True, True), I),
    ],
)
def test_init_insensitive_counts_decades(batch, none, estimate, open_, verdict):
    (effect, _) = primary(judged(CLAIM, accuracies(batch, none))).values()
    assert effect.estimate == pytest.approx(estimate, abs=1e-3)
    assert effect.verdict == verdict
    assert (np.isinf(effect.low), np.isinf(effect.high)) == open_
    assert effect.at_least == (open_ == (False, True))
    assert ("may do so beyond" in effect.note) == any(open_)


def swept(*rows: list[float], trains: list[bool] | None = None) -> Sweep:
    """Seeds' accuracies at five scales from 0.01 to 100; below 50 nothing trains."""
    accuracy = np.array(rows, dtype=np.float64)
    scales = (0.01, 0.1, 1.0, 10.0, 100.0)
    return Sweep(accuracy, accuracy > 50 if trains is None else np.tile(trains, (len(rows), 1)), scales)


def ranges(batch: Sweep, none: Sweep):
    sweeps = {("batch", "he"): batch, ("none", "he"): none}
    return wider("range", sweeps, ("batch", "he"), ("none", "he"), threshold=1.0)


TWO = [10.0, 80.0, 80.0, 80.0, 10.0]  # decades
ZERO = [10.0, 10.0, 80.0, 10.0, 10.0]


def test_init_insensitive_one_open_plain_range_is_enough_to_support_nothing():
    closed = ranges(swept(TWO, TWO, TWO, TWO), swept(ZERO, ZERO, ZERO, ZERO))
    assert (closed.estimate, closed.low, closed.verdict, closed.note) == (2.0, 2.0, S, "")
    end = [80.0, 10.0, 10.0, 10.0, 10.0]
    opened = ranges(swept(TWO, TWO, TWO, TWO), swept(ZERO, ZERO, ZERO, end))
    assert (opened.estimate, opened.low, opened.high, opened.verdict) == (2.0, -np.inf, 2.0, I)
    assert opened.note.startswith("in 1 seeds no normalisation works up to an end")


def test_init_insensitive_leaves_out_of_the_ranges_seeds_that_never_train():
    dead = [10.0] * 5
    effect = ranges(swept(TWO, TWO, dead, dead, TWO), swept(ZERO, ZERO, dead, ZERO, dead))
    assert effect.seeds == 4
    assert effect.estimate == pytest.approx((2 + 2 + 0 + 2) / 4)
    assert effect.note == "1 seeds left out that train at no scale"


def test_init_insensitive_tests_every_scale():
    """At 0.1 the mean loss is larger, at 10 its interval reaches farther: the latter decides."""
    wide = swept(*([10.0, 78.0, 80.0, 79.0 + by, 10.0] for by in (-20, 20, -20, 20)))
    effect = lost(wide, str)
    assert (effect.name, effect.verdict) == ("10.0", I)
    assert lost(swept(*([10.0, 78.0, 80.0, 79.0 + by, 10.0] for by in (-1, 1, 0))), str).verdict == S
    assert lost(swept(*([10.0, 78.0, 80.0, 60.0 + by, 10.0] for by in (-1, 1, 0))), str).verdict == C


def test_init_insensitive_chooses_and_tests_on_the_seeds_that_train_at_scale_1():
    """The seed that does not train would make the other scale the one that differs most."""
    seeds = swept(*([10.0, 77.0, 80.0, 79.0, 10.0] for _ in range(3)), [10.0, 10.0, 10.0, 80.0, 10.0])
    effect = lost(seeds, str)
    assert (effect.name, effect.seeds, effect.estimate) == ("0.1", 3, 3.0)
    assert "1 seeds left out that do not train at scale 1" in effect.note


# --- the output layer left at scale 1


def rounds(context: Context) -> list[list]:
    """Return what the claim asks for, round by round, where rate 0.1 is best."""
    measurement = CLAIM.measure(context)
    asked = [next(measurement)]
    while True:
        try:
            asked.append(measurement.send([made_run(spec, accuracies(WIDE, NARROW)) for spec in asked[-1]]))
        except StopIteration:
            return asked


def test_init_insensitive_trains_core_scales_with_the_output_layer_left():
    _, second = rounds(Context("quick"))
    assert [spec.network.norm for spec in second] == ["none", "batch"]
    for spec in second:
        assert {(member.lr, member.output_scale) for member in spec.members} == {(0.1, 1.0)}
        assert sorted({member.scale for member in spec.members}) == [0.1, 0.316, 3.16, 10.0]
        assert len(spec.members) == 4 * 10
    assert CORE == (0.1, 10.0)
    assert len(rounds(USERS)) == 1  # nobody knows which of a user's layers is the last


def test_init_insensitive_says_what_remains_with_the_output_layer_left():
    def fates(network: Network, member: Member) -> Fate:
        fate = accuracies({3.0: 0.85, 1000.0: 0.65}, NARROW, by=0.0)(network, member)
        return replace(fate, accuracy=0.8) if member.output_scale and network.norm == "batch" else fate

    result = judged(CLAIM, fates)
    none, batch = result.found[-2:]
    assert "by 70.0 points where all layers are scaled and by 70.0" in none
    assert none.endswith("100% of the loss remains.")
    assert "from scale 1 to 3.16" in batch
    assert "by 20.0 points where all layers are scaled and by 5.0" in batch
    assert batch.endswith("25% of the loss remains.")
    (kept,) = (effect for effect in result.effects if "output layer at scale 1" in effect.name)
    assert (kept.primary, kept.estimate) == (False, pytest.approx(5.0))
    dashed = [curve for curve in result.figures[0].panels[0].curves if curve.dashed]
    assert [curve.x for curve in dashed] == [(0.1, 0.316, 1.0, 3.16, 10.0)] * 2
    rows = {(row[0], row[1]): row[3:] for row in result.tables[0].rows}
    assert rows["batch norm", 10.0] == ("20.0 [20.0, 20.0]", "5.0 [5.0, 5.0]")
    assert rows["layer norm", 10.0][1] == "–"


def test_init_insensitive_says_nothing_of_what_remains_where_nothing_is_lost():
    assert "remains" not in judged(CLAIM, accuracies(WIDE, NARROW, by=0.0)).found[-1]
    assert "no seed trains at scale 1" in judged(CLAIM, accuracies(NEVER, NEVER)).found[-1]
