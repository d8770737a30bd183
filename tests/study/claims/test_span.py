import numpy as np

from xhat.study.claims._span import span_curve


def test_a_span_has_the_median_and_both_ends_of_what_is_finite():
    rows = [np.array([1.0, 5.0, np.nan]), np.array([2.0, np.inf, np.nan]), np.array([9.0, 7.0, np.nan])]
    curve = span_curve("name", "arm", (10, 20, 30), rows)
    assert (curve.x, curve.y) == ((10.0, 20.0), (2.0, 6.0))
    assert (curve.low, curve.high) == ((1.0, 5.0), (9.0, 7.0))


def test_a_span_of_nothing_is_empty():
    curve = span_curve("name", "arm", (10,), [np.array([np.nan])])
    assert (curve.x, curve.y, curve.low, curve.high) == ((), (), (), ())
