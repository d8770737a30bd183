from dataclasses import replace

import numpy as np
import pytest

from xhat.study.claims import CLAIMS
from xhat.study.claims._dropout_gain import gain
from xhat.study.claims._equal_loss import Path, at_loss, common_loss
from xhat.study.claims._tuned import Tuned
from xhat.study.spec import Member, Network

from ..made import CHANCE, USERS, C, Fate, Fates, I, S, judged, primary, shaken

CLAIM = CLAIMS["regularises"]


def overfitting(better: float, gain: dict[str, float], *, by: float = 0.002, faster: float = 1.0) -> Fates:
    """BN's accuracy is ``better`` at every training loss; dropout of 0.1 gains, of 0.5 spoils."""

    def fates(network: Network, member: Member) -> Fate:
        share = float(dict(network.options).get("dropout", 0.0))
        bn = network.norm != "none"

        def evaluated(measure, step: int):
            train_loss = CHANCE * float(np.exp(-step / 60 * (faster if bn else 1.0)))
            accuracy = 0.6 - 0.05 * np.log(train_loss) * 0.1 + better * bn
            return {
                "accuracy": accuracy * (shaken(member, by) if bn else 1.0),
                "test_loss": 1.0 - bn * better,
                "train_accuracy": 1.0,
                "train_loss": train_loss,
            }

        change = {0.0: 0.0, 0.1: gain.get(network.norm, 0.0), 0.5: -0.2}[share]
        final = 0.02 if member.lr == 0.3 else 0.5
        return Fate(final, (0.7 + change) * shaken(member, by), measured={"evaluate": evaluated})

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (overfitting(0.03, {"none": 0.03, "batch": 0.0}), S),
        (overfitting(-0.03, {"none": 0.0, "batch": 0.03}), C),
        (overfitting(0.0, {"none": 0.02, "batch": 0.02}), C),
        (overfitting(0.03, {"none": 0.02, "batch": 0.02}), I),  # it regularises, and needs dropout as much
        (overfitting(0.03, {"none": 0.03, "batch": 0.0}, by=0.2), I),
    ],
)
def test_regularises(fates, verdict):
    assert judged(CLAIM, fates).verdict == verdict


def test_regularises_compares_at_equal_loss_and_not_at_equal_steps():
    slow, fast = (
        primary(judged(CLAIM, overfitting(0.03, {}, by=0.0, faster=faster))) for faster in (1.0, 3.0)
    )
    for effects in (slow, fast):
        equal, _ = effects.values()
        assert equal.estimate == pytest.approx(3.0, abs=0.02)


def test_regularises_leaves_out_pairs_that_do_not_train():
    def fates(network: Network, member: Member) -> Fate:
        if member.seed == 2 and network.norm == "none":
            return Fate(final=CHANCE, accuracy=0.1)
        return overfitting(0.03, {"none": 0.03})(network, member)

    effects = primary(judged(CLAIM, fates))
    assert {effect.seeds for effect in effects.values()} == {9}
    assert all("1 seeds left out" in effect.note for effect in effects.values())


def test_regularises_shows_the_gain_of_dropout_with_recalibrated_statistics():
    """With BN dropout harms no network, but the running statistics that it leaves behind."""

    def fates(network: Network, member: Member) -> Fate:
        share = float(dict(network.options).get("dropout", 0.0))
        fate = overfitting(0.03, {"none": 0.03, "batch": -0.1}, by=0.0)(network, member)
        anew = {"accuracy": 0.7 + (0.02 if share == 0.1 else 0.0), "test_loss": 1.0}
        return replace(fate, measured={**fate.measured, "recalibrated": lambda measure, step: anew})

    result = judged(CLAIM, fates)
    _, decides = primary(result).values()
    (anew,) = [effect for effect in result.effects if "recalibrated" in effect.name]
    assert decides.estimate == pytest.approx(3.0, abs=0.2)  # harm is cut off at 0
    assert anew.estimate == pytest.approx(1.0, abs=0.2)
    assert not anew.primary


def test_regularises_says_which_arms_are_best_at_the_grids_end():
    def fates(network: Network, member: Member) -> Fate:
        fate = overfitting(0.03, {"none": 0.03})(network, member)
        at_end = network.norm == "none" and "dropout" in dict(network.options)
        return replace(fate, final=member.lr / 10) if at_end else fate

    result = judged(CLAIM, fates)
    equal, gains = primary(result).values()
    assert equal.note == ""
    assert gains.note == (
        "best rate at the grid's end: no normalisation with dropout 0.1, no normalisation with dropout 0.5"
    )


def test_regularises_where_nothing_trains():
    result = judged(CLAIM, lambda network, member: Fate(final=CHANCE, accuracy=0.1))
    assert {(effect.seeds, effect.verdict) for effect in primary(result).values()} == {(0, I)}
    assert any("no seed trains both" in words for words in result.found)


def test_regularises_on_a_users_network():
    (effect,) = primary(judged(CLAIM, overfitting(0.03, {}, by=0.0), USERS)).values()
    assert (effect.verdict, effect.seeds, effect.estimate) == (S, 4, pytest.approx(3.0, abs=0.05))


# --- what it computes


def test_at_loss_reads_where_the_loss_first_comes_down():
    loss, values = np.array([2.0, 0.5, 1.0, 0.125]), np.array([10.0, 20.0, 0.0, 40.0])
    assert at_loss(loss, values, 0.5) == 20.0
    assert at_loss(loss, values, 1.0) == pytest.approx(15.0)  # half way in the logarithm
    assert at_loss(loss, values, 0.25) == pytest.approx(40 * 2 / 3)
    assert at_loss(loss, values, 3.0) == 10.0
    assert np.isnan(at_loss(loss, values, 0.1))


def test_common_loss_is_what_all_reach():
    paths = [Path(np.array(losses), np.zeros(2), np.zeros(2)) for losses in ([2.0, 0.1], [0.4, 0.5])]
    assert common_loss(paths) == 0.4


class _Told:
    def __init__(self, accuracy: float) -> None:
        self.test_accuracy = accuracy


def test_the_gain_of_dropout_is_chosen_on_the_other_seeds():
    """Seed 0 alone does better with dropout: its own luck does not choose it; it does for the others' mean."""
    shares = {"none": (0.5, 0.7, 0.7), "none 0.1": (0.9, 0.6, 0.6)}
    arms = {
        name: Tuned(0.1, tuple(map(_Told, values)), {}, False)  # type: ignore[arg-type]
        for name, values in shares.items()
    }
    # The others of seed 0: 0.7 against 0.6, none. Of seeds 1 and 2: 0.6 against 0.75, dropout.
    assert gain(arms, "none", (0.0, 0.1)) == pytest.approx([0.0, -10.0, -10.0])
