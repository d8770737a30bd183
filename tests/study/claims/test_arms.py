from collections.abc import Sequence

import pytest

from xhat.study.claims import CLAIMS
from xhat.study.claims._arms import at_edge, not_at_rate, on_rates, recalibrated
from xhat.study.claims._tuned import Tuned
from xhat.study.measures import Recalibrated
from xhat.study.outcome import Outcome, Training, specs
from xhat.study.spec import Data, Member, Network

from ..made import CHANCE, Fate, judged, made_run

TRAINING = Training(Data("digits"), 10, 8, measures=(Recalibrated((10,)),))


def arm(trains: Sequence[bool], *, choosing: int = 2, at_edge: bool = False) -> Tuned:
    """An arm by which of its seeds train; the first ``choosing`` have chosen the rate."""

    def fates(network: Network, member: Member) -> Fate:
        said = {"accuracy": 0.6, "test_loss": 1.0}
        final = 0.3 if trains[member.seed] else CHANCE
        return Fate(final, 0.5, measured={"recalibrated": lambda measure, step: said})

    members = [Member(seed, 0.1) for seed in range(len(trains))]
    runs = [made_run(spec, fates) for spec in specs(Network("vgg"), members, TRAINING)]
    outcomes = tuple(Outcome(member, run, 0, 1.0) for member, run in zip(members, runs, strict=True))
    return Tuned(0.1, outcomes, {0.1: outcomes[:choosing]}, at_edge)


@pytest.mark.parametrize(
    ("arms", "note"),
    [
        ({"none": arm([True] * 4), "batch": arm([True] * 4)}, ""),
        ({"none": arm([True] * 4, at_edge=True), "batch": arm([False] * 4)}, "no normalisation"),
        ({"none": arm([True, False], at_edge=True)}, "no normalisation"),
    ],
)
def test_at_edge_names_the_arms_whose_best_rate_is_at_the_grids_end(arms, note):
    assert at_edge(arms) == (note and f"best rate at the grid's end: {note}")


def test_at_edge_names_apart_the_arms_that_do_not_train():
    """There a better rate may lie beyond all the more."""
    arms = {
        "batch": arm([True] * 3, at_edge=True),
        "none": arm([False] * 3, at_edge=True),
        "layer": arm([False] * 3, at_edge=True),
    }
    assert at_edge(arms) == (
        "best rate at the grid's end: batch norm; best rate at the grid's end, and does not train there: no "
        "normalisation, layer norm"
    )


@pytest.mark.parametrize(
    ("trains", "choosing", "count"),
    [
        ([True, True, True, True], 2, ""),
        ([True, True, False, True], 2, "1 of the 2"),
        ([False, True, False, False, False], 2, "3 of the 3"),
        ([False, True, True, True], 2, ""),  # one that has chosen
        ([False, True, True], 3, ""),  # all have chosen
    ],
)
def test_seeds_that_do_not_train_at_a_rate_they_have_not_chosen(trains, choosing, count):
    note = count and f"{count} seeds that did not choose the rate of batch norm do not train"
    assert not_at_rate({"none": arm([True] * 3), "batch": arm(trains, choosing=choosing)}) == note


def test_on_rates_says_both():
    assert on_rates({"none": arm([True] * 3)}) == ""
    assert on_rates({"none": arm([True, True, False], at_edge=True)}, {"none": "plain"}) == (
        "best rate at the grid's end: plain; 1 of the 1 seeds that did not choose the rate of plain do not train"
    )


def test_recalibrated_is_the_last_accuracy_where_a_run_was_given_up():
    told = arm([True] * 3)
    assert list(recalibrated(told)) == pytest.approx([60.0] * 3)
    told.outcomes[1].run.arrays.pop("recalibrated_accuracy")
    assert list(recalibrated(told)) == pytest.approx([60.0, 50.0, 60.0])


@pytest.mark.parametrize(
    "name", ["faster", "no-bias", "stable-training", "limits-batch", "limits-noise", "limits-norms"]
)
def test_claims_say_that_seeds_do_not_train_at_a_rate_they_have_not_chosen(name):
    def fates(network: Network, member: Member) -> Fate:
        gone = network.norm == "batch" and network.name == "vgg" and member.seed == 3
        return Fate(final=CHANCE, accuracy=0.1) if gone else Fate(final=0.3 + abs(member.lr - 0.3))

    notes = [effect.note for effect in judged(CLAIMS[name], fates).effects if "VGG" in effect.name]
    said = "1 of the 2 seeds that did not choose the rate of batch norm do not train"
    assert any(said in note for note in notes)
