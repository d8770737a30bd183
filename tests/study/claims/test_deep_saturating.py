from dataclasses import replace

import pytest

from xhat.study.claims import CLAIMS
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, C, Fate, I, S, judged, primary, shaken


def saturating(
    batch: float, *, small: float = 0.1, xavier: float = 0.2, gradient: float = 1000.0, by: float = 0.0
):
    """Accuracies at each arm's best rate, 1; other rates have a larger loss and a perfect accuracy."""

    def fates(network: Network, member: Member) -> Fate:
        accuracy = {"batch": batch, "layer": 0.3, "none": {"small": small, "xavier": xavier}.get(member.init)}
        if member.lr != 1.0:
            return Fate(final=0.9, accuracy=1.0, gradient=1.0)
        noise = by * (-1) ** member.seed
        return Fate(accuracy=accuracy[network.norm] + noise * (network.norm == "batch"))

    def with_gradients(network: Network, member: Member) -> Fate:
        fate = fates(network, member)
        return replace(fate, gradient=shaken(member) * (gradient if network.norm == "batch" else 1.0))

    return with_gradients


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (saturating(0.8), S),
        (saturating(0.25, gradient=2.0), C),
        (saturating(0.1, gradient=0.01), C),
        (saturating(0.3, by=0.3), I),
        (saturating(0.8, small=0.8), I),  # the better of both plain arms counts; the gradient is better still
    ],
)
def test_deep_saturating(fates, verdict):
    assert judged(CLAIMS["deep-saturating"], fates).verdict == verdict


def test_deep_saturating_holds_bn_against_the_better_plain_arm():
    effects = primary(judged(CLAIMS["deep-saturating"], saturating(0.8, small=0.5, xavier=0.2)))
    accuracy = [effect for name, effect in effects.items() if name.startswith("test accuracy")]
    gradient = [effect for name, effect in effects.items() if name.startswith("gradient")]
    assert [effect.estimate for effect in accuracy] == pytest.approx([30.0, 30.0])
    assert [effect.estimate for effect in gradient] == pytest.approx([1000.0])
    assert {effect.seeds for effect in effects.values()} == {10}
    assert all("20 layers" in name for name in effects)  # the deepest decides


def test_deep_saturating_without_a_gradient_is_undecided_not_wrong():
    def fates(network: Network, member: Member) -> Fate:
        return replace(saturating(0.8)(network, member), gradient=1.0 if network.norm == "batch" else 0.0)

    result = judged(CLAIMS["deep-saturating"], fates)
    assert result.verdict == I


def test_deep_saturating_rules_out_a_rate_at_which_a_seed_diverges():
    def fates(network: Network, member: Member) -> Fate:
        if member.lr == 3.0:  # the least loss, but not for all
            return Fate(final=NAN if member.seed == 3 else 0.01, accuracy=0.0)
        return saturating(0.8)(network, member)

    assert judged(CLAIMS["deep-saturating"], fates).verdict == S


@pytest.mark.parametrize(
    ("final", "words"),
    [
        (0.3, "best rate at the grid's end: no normalisation, N(0, 0.01²), "),
        (CHANCE, "best rate at the grid's end, and does not train there: no normalisation, N(0, 0.01²), "),
    ],
)
def test_deep_saturating_says_where_a_best_rate_lies_at_the_grids_end(final, words):
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=final + member.lr / 100)  # the lowest rate is best

    notes = [effect.note for effect in primary(judged(CLAIMS["deep-saturating"], fates)).values()]
    assert sum(note.startswith(words) for note in notes) == 2


def test_deep_saturating_names_apart_the_arm_that_does_not_train_at_the_end():
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=(CHANCE if member.init == "small" else 0.3) + member.lr / 100)

    notes = [effect.note for effect in primary(judged(CLAIMS["deep-saturating"], fates)).values()]
    end = "; best rate at the grid's end, and does not train there: no normalisation, N(0, 0.01²)"
    assert sum(note.endswith(end) for note in notes) == 2


def test_deep_saturating_says_nothing_of_the_grid_where_best_rates_lie_inside():
    effects = judged(CLAIMS["deep-saturating"], saturating(0.8)).effects  # 1 is inside for sigmoid alone
    assert {
        "sigmoid" in effect.name: "grid's end" in effect.note for effect in effects if "test" in effect.name
    } == {
        True: False,
        False: True,
    }


def test_deep_saturating_prints_bns_own_gradient_ratio():
    """A gradient that explodes is above 1, and is seen to."""
    result = judged(CLAIMS["deep-saturating"], saturating(0.8, gradient=1000.0))
    assert all("batch norm, Xavier 1e+03; no normalisation, Xavier 1." in words for words in result.found)


def test_a_gradient_that_is_zero_in_float32_is_said_not_to_be_drawn():
    def fates(network: Network, member: Member) -> Fate:
        vanished = member.init == "small" and dict(network.options)["depth"] == 20
        return replace(saturating(0.8)(network, member), gradient=0.0 if vanished else 1.0)

    words = "Gradients that are zero in float32 are not drawn: no normalisation, N(0, 0.01²)."
    for gone, result in (
        (True, judged(CLAIMS["deep-saturating"], fates)),
        (False, judged(CLAIMS["deep-saturating"], saturating(0.8))),
    ):
        assert all(figure.caption.endswith(words) == gone for figure in result.figures)
