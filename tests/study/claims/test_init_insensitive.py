import pytest

from xhat.study.claims import CLAIMS
from xhat.study.spec import Member, Network

from ..made import CHANCE, C, Fate, Fates, I, S, judged, primary, shaken


def accuracies(batch: dict[float, float], none: dict[float, float], *, by: float = 0.002) -> Fates:
    """Accuracy by the scale up to which it holds, from small scales to large."""

    def fates(network: Network, member: Member) -> Fate:
        held = batch if network.norm == "batch" else none
        accuracy = next(value for scale, value in held.items() if member.scale <= scale)
        if member.lr != 0.1:
            return Fate(final=2.0, accuracy=0.0)
        return Fate(final=0.3 if accuracy > 0.5 else CHANCE, accuracy=accuracy * shaken(member, by))

    return fates


WIDE, NARROW = {1000.0: 0.85}, {0.5: 0.1, 3.0: 0.8, 1000.0: 0.1}


@pytest.mark.parametrize(
    ("batch", "none", "verdict"),
    [
        (WIDE, NARROW, S),
        (NARROW, WIDE, C),
        (WIDE, WIDE, I),  # no wider, but insensitive: the parts disagree
        ({3.0: 0.85, 1000.0: 0.7}, NARROW, I),  # wider, but it loses 15 points
    ],
)
def test_init_insensitive(batch, none, verdict):
    result = judged(CLAIMS["init-insensitive"], accuracies(batch, none))
    assert result.verdict == verdict
    wider, lost = primary(result).values()
    assert wider.seeds == (0 if batch is none else 10)  # two open ranges: neither is known to be wider
    assert lost.seeds == 10


def test_init_insensitive_counts_decades():
    result = judged(CLAIMS["init-insensitive"], accuracies(WIDE, NARROW))
    wider, lost = primary(result).values()
    # 7 scales 2/3 of a decade apart: all work against one of them
    assert wider.estimate == pytest.approx((7 - 1) * 2 / 3)
    assert lost.estimate == pytest.approx(0.0, abs=0.1)
    assert (lost.rule, lost.threshold) == ("within", 5.0)


def test_init_insensitive_leaves_out_seeds_that_never_train():
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=CHANCE, accuracy=0.1)

    result = judged(CLAIMS["init-insensitive"], fates)
    assert result.verdict != S
    wider, lost = primary(result).values()
    assert (lost.seeds, lost.verdict) == (0, I)
    assert wider.estimate == 0.0
    assert any("workable for most seeds at no scale" in words for words in result.found)
