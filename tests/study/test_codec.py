import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xhat.study import codec
from xhat.study.result import Curve, Effect, Panel, Table

from ..report.sample import study

WORDS = st.one_of(st.sampled_from(["NaN", "Infinity", "-Infinity", r"\NaN", r"\\Infinity"]), st.text())
CELLS = st.one_of(WORDS, st.floats(), st.integers())
FEW = settings(max_examples=40, deadline=None)

CURVE = Curve("a", "batch", (0.0, 1.0), (2.0, math.nan), low=(1.0, -math.inf), high=None)


def again(value):
    return codec.loads(codec.dumps(value), type(value))


@FEW
@given(st.one_of(st.from_type(kind) for kind in (Curve, Effect, Panel)))
def test_results_come_back_as_they_were(result):
    # repr, not equality: NaN is unlike itself, and 1 is equal to 1.0
    assert repr(again(result)) == repr(result)


@FEW
@given(st.builds(Table, title=WORDS, rows=st.lists(st.lists(CELLS).map(tuple)).map(tuple)))
def test_a_table_keeps_words_and_numbers_apart(table):
    assert repr(again(table)) == repr(table)


def test_a_whole_study_comes_back_as_it_was():
    assert repr(again(study())) == repr(study())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, '"NaN"'),
        (-math.inf, '"-Infinity"'),
        ("NaN", r'"\\NaN"'),
        ("γ ≥ 0", '"γ ≥ 0"'),
        (np.float32(0.5), "0.5"),
        (np.float64("inf"), '"Infinity"'),
        (np.int64(3), "3"),
        (np.True_, "true"),
        ((1, (2.0, None)), "[1,[2.0,null]]"),
        ({1: "one"}, '{"1":"one"}'),
    ],
)
def test_what_the_text_is(value, text):
    assert codec.dumps(value) == text


def test_the_text_is_json_that_any_reader_takes():
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(codec.dumps(CURVE), parse_constant=refuse)


def test_a_whole_number_for_a_float_becomes_a_float():
    text = codec.dumps(CURVE).replace("2.0", "2")
    assert repr(codec.loads(text, Curve)) == repr(CURVE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3),
        ("name", None),
        ("x", "abc"),
        ("x", None),
        ("x", 1.0),
        ("x", {"0": 1.0}),
        ("x", ["a"]),
        ("x", [True]),
        ("x", [[1.0]]),
        ("low", "abc"),
        ("low", 3),
        ("mode", "dots"),
        ("mode", ["lines"]),
        ("dashed", "yes"),
        ("dashed", 1),
        ("colour", "red"),
    ],
)
def test_a_wrong_type_is_refused(field, value):
    altered = json.loads(codec.dumps(CURVE)) | {field: value}
    with pytest.raises(ValueError, match="not a Curve"):
        codec.loads(json.dumps(altered), Curve)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"Curve"', "{}", '{"name":"a"}', "NaN"])
def test_what_is_no_curve_is_refused(text):
    with pytest.raises(ValueError, match=r"not a Curve|Expecting"):
        codec.loads(text, Curve)


@dataclass(frozen=True)
class Pair:
    both: tuple[int, str]


@pytest.mark.parametrize("both", [[1], [1, "a", "b"], ["a", 1], [1.0, "a"]])
def test_a_tuple_of_a_fixed_length_is_checked(both):
    assert again(Pair((1, "a"))) == Pair((1, "a"))
    with pytest.raises(ValueError):  # noqa: PT011 - zip's own words, or ours
        codec.loads(json.dumps({"both": both}), Pair)
