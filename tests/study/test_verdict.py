import math

import numpy as np
import pytest
from scipy import stats

from xhat.study.result import Effect, disagreement, law_check, overall
from xhat.study.verdict import MIN_PAIRS, difference, interval, judge, ratio

INF, NAN = math.inf, math.nan
S, C, I = "supported", "contradicted", "inconclusive"  # noqa: E741


@pytest.mark.parametrize("size", [2, 3, 10, 57])
def test_the_interval_is_scipys(size):
    sample = np.random.default_rng(size).normal(3.0, 2.0, size)
    mean, low, high = interval(sample)
    expected = stats.t.interval(0.95, size - 1, loc=sample.mean(), scale=stats.sem(sample))
    np.testing.assert_allclose((mean, low, high), (sample.mean(), *expected), rtol=1e-12)


def test_the_interval_of_three_by_hand():
    # mean 2, standard error 1/√3, t(0.975, 2) = 4.302653
    assert interval([1, 2, 3]) == pytest.approx((2, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


@pytest.mark.parametrize("size", [3, 10])
def test_the_interval_covers_the_truth_as_often_as_it_says(size):
    trials = 2000
    samples = np.random.default_rng(0).normal(1.0, 3.0, (trials, size))
    covered = sum(low <= 1.0 <= high for _, low, high in map(interval, samples))
    error = math.sqrt(trials * 0.95 * 0.05)
    assert abs(covered - 0.95 * trials) < 3 * error


@pytest.mark.parametrize(
    ("values", "mean"),
    [([], NAN), ([4.0], 4.0), ([1.0, INF, 2.0], INF), ([1.0, NAN, 2.0], NAN), ([INF, -INF, 0.0], NAN)],
)
def test_without_two_finite_values_the_interval_is_the_whole_line(values, mean):
    found, low, high = interval(values)
    assert (low, high) == (-INF, INF)
    assert found == pytest.approx(mean, nan_ok=True)


@pytest.mark.parametrize(
    ("low", "high", "threshold", "rule", "verdict"),
    [
        (1.1, 2.0, 1.0, "above", S),
        (1.0, 2.0, 1.0, "above", I),  # the end itself is not above
        (0.0, 2.0, 1.0, "above", I),
        (0.0, 1.0, 1.0, "above", I),
        (0.0, 0.9, 1.0, "above", C),
        (1.0, 1.0, 1.0, "above", I),
        (-INF, INF, 1.0, "above", I),
        (2.0, INF, 1.0, "above", S),
        (-INF, 0.5, 1.0, "above", C),
        (NAN, NAN, 1.0, "above", I),
        (-0.9, 0.9, 1.0, "within", S),
        (-1.0, 0.9, 1.0, "within", I),
        (-0.9, 1.0, 1.0, "within", I),
        (-2.0, 2.0, 1.0, "within", I),
        (0.5, 2.0, 1.0, "within", I),
        (1.0, 2.0, 1.0, "within", I),
        (1.1, 2.0, 1.0, "within", C),
        (-2.0, -1.1, 1.0, "within", C),
        (-2.0, -1.0, 1.0, "within", I),
        (-INF, INF, 1.0, "within", I),
        (NAN, NAN, 1.0, "within", I),
    ],
)
def test_the_rules(low, high, threshold, rule, verdict):
    assert judge(low, high, threshold, rule) == verdict


@pytest.mark.parametrize(
    ("values", "rule", "verdict"),
    [
        ([5.0, 5.1, 4.9], "above", S),
        ([0.0, 0.1, -0.1], "above", C),
        ([0.0, 5.0, -5.0], "above", I),
        ([0.0, 0.1, -0.1], "within", S),
        ([5.0, 5.1, 4.9], "within", C),
        ([0.9, 1.1, 1.0], "within", I),
        ([5.0, INF, 5.0], "above", I),
        ([5.0, NAN, 5.0], "above", I),
        ([2.0, 2.0, 2.0], "above", S),
    ],
)
def test_a_difference_against_its_threshold(values, rule, verdict):
    effect = difference("a", "points", values, threshold=1.0, rule=rule)
    assert (effect.verdict, effect.seeds, effect.rule, effect.threshold) == (verdict, 3, rule, 1.0)
    assert effect.note == ""


@pytest.mark.parametrize("count", range(MIN_PAIRS))
def test_too_few_pairs_decide_nothing_and_say_so(count):
    effect = difference("a", "points", [9.0 + 1e-9 * n for n in range(count)], threshold=1.0, note="Mine.")
    assert effect.verdict == I
    assert effect.seeds == count
    assert effect.note == f"{count} pairs of runs could be compared; {MIN_PAIRS} are needed. Mine."


def test_a_ratio_is_a_geometric_mean():
    values = np.array([2.0, 4.0, 16.0, 3.0])
    effect = ratio("a", "times", list(np.log(values)), threshold=1.2, primary=False, at_least=True, note="n")
    low, high = stats.t.interval(0.95, 3, loc=np.log(values).mean(), scale=stats.sem(np.log(values)))
    expected = (stats.gmean(values), math.exp(low), math.exp(high))
    assert (effect.estimate, effect.low, effect.high) == pytest.approx(expected)
    assert (effect.threshold, effect.rule, effect.seeds) == (1.2, "above", 4)
    assert (effect.primary, effect.at_least, effect.note) == (False, True, "n")


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [([3.0, 3.1, 2.9], S), ([1.0, 1.1, 0.9], C), ([1.0, 3.0, 9.0], I), ([2.0, 2.0, 2.0], I), ([9.0, 9.0], I)],
)
def test_a_ratio_against_its_threshold(ratios, verdict):
    assert ratio("a", "times", list(np.log(ratios)), threshold=2.0).verdict == verdict


@pytest.mark.parametrize(
    ("logs", "estimate"),
    [([900.0, 900.0, 900.0], INF), ([-INF, 0.0, 0.0], 0.0), ([NAN, 0, 0], NAN), ([], NAN)],
)
def test_ratios_out_of_range(logs, estimate):
    effect = ratio("a", "times", logs, threshold=2.0)
    assert effect.estimate == pytest.approx(estimate, nan_ok=True)
    assert effect.verdict == (S if estimate == INF else I)


# --- from effects to a claim


def effect(verdict: str, *, name: str = "part", primary: bool = True) -> Effect:
    return Effect(name, "points", 0.0, 0.0, 0.0, 0.0, "above", 3, verdict, primary)


@pytest.mark.parametrize(
    ("primary", "secondary", "verdict"),
    [
        ([], [], I),
        ([], [S], I),
        ([S], [], S),
        ([S, S], [C], S),
        ([C], [S], C),
        ([C, C], [], C),
        ([I], [], I),
        ([S, I], [], I),
        ([C, I], [], C),
        ([S, C], [], I),
        ([S, C, I], [], I),
    ],
)
def test_the_verdict_of_a_claim(primary, secondary, verdict):
    effects = [effect(each) for each in primary] + [effect(each, primary=False) for each in secondary]
    assert overall(effects) == verdict
    assert overall(effects[::-1]) == verdict


@pytest.mark.parametrize("verdicts", [[], [S], [C, C], [C, I], [I]])
def test_parts_that_agree_are_not_told_of(verdicts):
    assert disagreement([effect(each) for each in verdicts]) == ""
    assert disagreement([*map(effect, verdicts), effect(S, primary=False), effect(C, primary=False)]) == ""


def test_parts_that_leave_a_claim_open_are_named():
    told = disagreement(
        [effect(S, name="one"), effect(I, name="two"), effect(I, name="aside", primary=False)]
    )
    assert told == "Left open by: two. The other parts are supported."


def test_parts_that_disagree_are_named():
    parts = [effect(S, name="one"), effect(C, name="two"), effect(S, name="three"), effect(I, name="four")]
    told = disagreement([*parts, effect(C, name="aside", primary=False)])
    assert told.endswith("Supported: one; three. Contradicted: two.")
    assert "aside" not in told


@pytest.mark.parametrize(
    ("error", "tolerance", "passed"),
    [(0.0, 0.0, True), (1.0, 1.0, True), (1.1, 1.0, False), (NAN, 1.0, False), (INF, 1.0, False)],
)
def test_an_error_against_its_tolerance(error, tolerance, passed):
    assert law_check("a", error, tolerance).passed is passed
