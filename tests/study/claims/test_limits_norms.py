import pytest

from xhat.study.claims import CLAIMS
from xhat.study.spec import Member, Network

from ..made import CHANCE, C, Fate, Fates, I, S, judged, primary, shaken

CLAIM = CLAIMS["limits-norms"]


def norms(*, l1: float = 0.8, linf: float = 0.8, none: float = 0.6, by: float = 0.002) -> Fates:
    """Accuracies at each arm's best rate, 0.3; other rates have a larger loss and a perfect accuracy."""
    accuracy = {"none": none, "batch": 0.8, "layer": 0.7, "group": 0.7, "l1": l1, "linf": linf}

    def fates(network: Network, member: Member) -> Fate:
        if member.lr != 0.3:
            return Fate(final=0.9, accuracy=1.0)
        noise = 1.0 if network.norm == "batch" else shaken(member, by)
        return Fate(accuracy=accuracy[network.norm] * noise)

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (norms(), S),
        (norms(l1=0.81, linf=0.79), S),
        (norms(l1=0.75, linf=0.75), C),
        (norms(l1=0.85, linf=0.75), C),  # better is another effect too
        (norms(linf=0.75), I),  # one does as well, one does not
        (norms(by=0.1), I),
    ],
)
def test_limits_norms(fates, verdict):
    assert judged(CLAIM, fates).verdict == verdict


def test_limits_norms_says_the_difference_in_points():
    effects = primary(judged(CLAIM, norms(l1=0.81, linf=0.79)))
    assert len(effects) == 4
    for name, effect in effects.items():
        assert effect.estimate == pytest.approx(1.0 if "L1" in name else -1.0, abs=0.2)
        assert (effect.rule, effect.threshold) == ("within", 2.0)
        assert effect.seeds == (4 if "VGG" in name else 10)


def test_limits_norms_leaves_out_seeds_where_bn_does_not_train_and_keeps_others():
    def fates(network: Network, member: Member) -> Fate:
        gone = {"batch": 0, "l1": 1}.get(network.norm) == member.seed
        return Fate(final=CHANCE, accuracy=0.1) if gone else norms()(network, member)

    effects = primary(judged(CLAIM, fates))
    assert {effect.seeds for effect in effects.values()} == {3, 9}
    assert all("1 seeds left out, where batch norm does not train" in e.note for e in effects.values())
    # A seed of L1 that does not train is a difference, not a gap.
    assert {effect.verdict for name, effect in effects.items() if "L1" in name} == {I}


def test_limits_norms_decides_nothing_where_bn_does_not_train():
    effects = primary(judged(CLAIM, lambda network, member: Fate(final=CHANCE, accuracy=0.1)))
    assert {(effect.seeds, effect.verdict) for effect in effects.values()} == {(0, I)}
