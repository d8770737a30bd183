import math

import pytest

from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.claims._search_box import own_box
from xhat.study.spec import Member, Network

from ..made import CHANCE, USERS, C, Fate, Fates, I, S, judged, primary, shaken

BOX = own_box(Context("quick"))
CLAIM = CLAIMS["easier-search"]


def workable(batch: int, none: int, *, layer: int = 0, by: int = 0) -> Fates:
    """So many rates, from the lowest, work at every scale; with ``by`` more in seeds with odd numbers."""

    def fates(network: Network, member: Member) -> Fate:
        count = {"batch": batch, "none": none, "layer": layer}[network.norm]
        count += by * (member.seed % 2) * (network.norm == "batch")
        works = member.lr in BOX.rates[:count]
        return Fate(accuracy=0.8 if works else 0.5) if works else Fate(final=CHANCE, accuracy=0.5)

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (workable(5, 2), S),
        (workable(2, 5), C),
        (workable(3, 3), C),  # no larger: below the threshold
        (workable(2, 2, by=2), I),
    ],
)
def test_easier_search(fates, verdict):
    result = judged(CLAIM, fates)
    assert result.verdict == verdict
    (effect,) = primary(result).values()
    assert (effect.seeds, effect.threshold) == (10, 10.0)


def test_easier_search_counts_cells():
    result = judged(CLAIM, workable(5, 2, layer=3))
    assert [effect.estimate for effect in result.effects] == pytest.approx(
        [300 / 7, 300 / 7, 300 / 7, 100 / 7]
    )
    none, layer, batch, at_one = result.found
    assert "29% of the grid" in none
    assert batch.endswith(f"95%: {math.ceil(math.log(0.05) / math.log(2 / 7))}.")
    assert "43% of the grid" in layer
    assert at_one.endswith("no normalisation 29%; layer norm 43%; batch norm 71%.")


def test_easier_search_says_the_share_at_scale_1_alone():
    def fates(network: Network, member: Member) -> Fate:
        works = network.norm == "batch" or member.scale == 1.0
        return Fate(accuracy=0.8 if works else 0.1)

    result = judged(CLAIM, fates)
    assert primary(result).popitem()[1].estimate == pytest.approx(100 * 8 / 9)
    assert result.found[-1].startswith(
        "MLP, at the usual initialisation (scale 1) alone, share of the 7 learning"
    )
    assert result.found[-1].endswith("no normalisation 100%; layer norm 100%; batch norm 100%.")


def test_easier_search_takes_the_best_of_both_arms_as_its_measure():
    def fates(network: Network, member: Member) -> Fate:
        return Fate(accuracy=(0.9 if network.norm == "batch" else 0.8) * shaken(member, 0.002))

    result = judged(CLAIM, fates)
    shares = {effect.name: effect.estimate for effect in result.effects if "batch" in effect.unit}
    assert list(shares.values()) == pytest.approx([100.0, 0.0, 100.0])  # none is as easy by its own measure
    assert "no cell of the grid" in result.found[0]


def test_easier_search_draws_a_map_an_arm():
    maps, allowance = judged(CLAIM, workable(5, 2)).figures
    assert [panel.title for panel in maps.panels] == ["batch norm", "no normalisation", "layer norm"]
    for panel, count in zip(maps.panels, (5, 2, 0), strict=True):
        assert panel.heat is not None
        assert (panel.heat.low, panel.heat.high) == (50, 80)
        assert [value == pytest.approx(80) for value in panel.heat.cells[0]] == [True] * count + [False] * (
            7 - count
        )
    assert all(curve.y[-1] == pytest.approx(100) for curve in allowance.panels[0].curves)  # 30 points allowed


@pytest.mark.parametrize("accuracy", [0.1, 0.8])
def test_easier_search_where_all_cells_are_alike(accuracy):
    result = judged(CLAIM, lambda network, member: Fate(final=CHANCE, accuracy=accuracy))
    assert result.verdict == C
    assert all(effect.estimate == 0 for effect in result.effects)


def test_easier_search_on_a_users_network():
    result = judged(
        CLAIM, lambda network, member: Fate(accuracy=0.8 if network.norm == "batch" else 0.2), USERS
    )
    (effect,) = primary(result).values()
    assert (effect.verdict, effect.seeds) == (S, 4)


def test_two_claims_share_the_runs():
    asked = [next(CLAIMS[name].measure(Context("quick"))) for name in ("easier-search", "init-insensitive")]
    assert asked[0] == asked[1]
