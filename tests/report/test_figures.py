"""Descriptions into plotly figures: checked by plotly's own schema and by what a reader relies on."""

import json
import math
from dataclasses import replace

import plotly.graph_objects as go
import pytest

from xhat.report._heat import edges
from xhat.report.figures import to_plotly
from xhat.study.result import Axis, Curve, Figure, Frame, Heat, Panel

from .sample import IMAGE, LINK, SCRIPT, depths, drift, landscape, rates, scales

LINEAR, LOG = Axis("x"), Axis("y", log=True)


def one(*curves: Curve, x: Axis = LINEAR, y: Axis = LINEAR) -> Figure:
    return Figure("f", "title", "caption", "alt", (Panel("panel", x, y, curves),))


def lines(made: dict) -> list[dict]:
    return [trace for trace in made["data"] if "fill" not in trace]


def bands(made: dict) -> list[dict]:
    return [trace for trace in made["data"] if "fill" in trace]


@pytest.mark.parametrize("figure", [landscape(), rates(), depths(), drift(), scales()], ids=lambda f: f.id)
def test_plotly_accepts_it_and_json_holds_it(figure):
    made = to_plotly(figure)
    assert len(go.Figure(made).data) == len(made["data"])
    json.dumps(made, allow_nan=False)


def test_panels_stand_side_by_side_on_axes_of_their_own():
    made = to_plotly(landscape())
    assert made["layout"]["grid"] == {"rows": 1, "columns": 3, "pattern": "independent"}
    assert {trace["xaxis"] for trace in made["data"]} == {"x", "x2", "x3"}
    assert [made["layout"][f"yaxis{nth}"]["type"] for nth in ("", "2", "3")] == ["linear", "log", "linear"]


def test_a_name_has_one_legend_entry_and_one_style_over_all_panels():
    made = to_plotly(landscape())
    assert [trace["name"] for trace in made["data"] if trace["showlegend"]] == ["batch norm", "no norm"]
    for name in ("batch norm", "no norm"):
        assert len({json.dumps([t["line"], t["marker"]]) for t in lines(made) if t["name"] == name}) == 1


def test_what_no_axis_shows_becomes_a_gap():
    made = to_plotly(one(Curve("a", "batch", (0, 1, 2, 3), (1, math.nan, math.inf, 0)), y=LOG))
    assert made["data"][0]["y"] == [1, None, None, None]


def test_a_gap_parts_the_band_into_polygons():
    curve = Curve("a", "batch", (0, 1, 2, 3), (1, 1, math.nan, 1), low=(0, 0, math.nan, 0), high=(2, 2, 2, 2))
    (band,) = bands(to_plotly(one(curve)))
    assert band["x"] == [0, 1, 1, 0, None, 3, 3]
    assert band["y"] == [2, 2, 0, 0, None, 2, 0]


def test_a_band_below_zero_ends_a_decade_below_the_curves_on_a_log_axis():
    (band,) = bands(to_plotly(one(Curve("a", "batch", (0, 1), (5, 2), low=(-1, 1), high=(9, 3)), y=LOG)))
    assert band["y"] == [9, 3, 1, 0.2]


def test_bands_lie_below_all_lines():
    made = to_plotly(landscape())
    assert made["data"] == bands(made) + lines(made)


def test_colour_is_never_the_only_difference():
    arms = ("batch", "none", "layer", "group", "one", "two", "three", "four")
    markers = [curve["marker"] for curve in to_plotly(one(*(Curve(a, a, (0,), (0,)) for a in arms)))["data"]]
    assert len({marker["color"] for marker in markers}) == len(arms)
    assert len({marker["symbol"] for marker in markers}) == len(arms)


def test_many_arms_still_look_different():
    made = to_plotly(one(*(Curve(f"{nth}", f"{nth}", (0,), (0,)) for nth in range(56))))
    assert len({(trace["marker"]["color"], trace["marker"]["symbol"]) for trace in made["data"]}) == 56


def test_curves_of_one_arm_differ_by_their_dash():
    curves = [Curve(name, "batch", (0,), (0,), dashed=name == "c") for name in "abc"]
    dashes = [trace["line"]["dash"] for trace in to_plotly(one(*curves))["data"]]
    assert dashes == ["solid", "dot", "dash"]


def test_figures_of_one_section_share_the_colours_of_free_arms():
    figure = one(Curve("b", "b", (0,), (0,)))
    alone, shared = (to_plotly(figure, arms=arms)["data"][0]["marker"] for arms in (None, ("a", "b")))
    assert alone["color"] != shared["color"]


def test_points_have_no_line():
    assert to_plotly(one(Curve("a", "batch", (0,), (0,), mode="markers")))["data"][0]["mode"] == "markers"


def test_a_long_log_axis_is_marked_by_decades():
    made = to_plotly(one(Curve("a", "batch", (0, 1), (1e-12, 1)), y=LOG))
    assert made["layout"]["yaxis"]["dtick"] == 2


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1.5, 14, ["2", "5", "10"]),
        (0.02, 4, ["0.03", "0.1", "0.3", "1", "3"]),
        (88_000, 99_000, ["90k", "95k"]),
        (0.5, 0.5, ["0.5"]),
        (1.5e-6, 6e-6, ["2×10⁻⁶", "5×10⁻⁶"]),
    ],
)
def test_a_short_log_axis_is_marked_by_round_numbers(low, high, shown):
    axis = to_plotly(one(Curve("a", "batch", (0, 1), (low, high)), y=LOG))["layout"]["yaxis"]
    inside = [
        text
        for value, text in zip(axis["tickvals"], axis["ticktext"], strict=True)
        if low <= value <= high * (1 + 1e-9)
    ]
    assert inside == shown


def test_an_arms_first_line_is_solid_even_if_points_come_first():
    curves = (Curve("measured", "a", (0,), (0,), mode="markers"), Curve("formula", "a", (0,), (0,)))
    assert to_plotly(one(*curves))["data"][1]["line"]["dash"] == "solid"


def test_many_bands_are_fainter():
    fills = [
        bands(to_plotly(one(*(Curve(f"{nth}", "a", (0,), (0,), (0,), (1,)) for nth in range(many)))))[0][
            "fillcolor"
        ]
        for many in (2, 8)
    ]
    assert [fill.rsplit(",")[-1] for fill in fills] == ["0.16)", "0.06)"]


def moving() -> Figure:
    still = Panel("panel", LINEAR, LOG, (Curve("a", "batch", (0, 1), (1, 10), low=(0.5, 5), high=(2, 20)),))
    later = Panel("panel", LINEAR, LOG, (Curve("b", "none", (0, 4), (1, 1000)), *still.curves))
    frames = (Frame("0", (still,)), Frame("9", (later,)))
    return Figure("f", "t", "c", "a", (still,), frames, "training step")


def test_frames_hold_every_curve_of_every_frame():
    made = to_plotly(moving())
    assert sorted(trace["name"] for trace in made["data"]) == ["a", "a", "b"]
    first, last = made["frames"]
    assert first["traces"] == last["traces"] == [0, 1, 2]
    by_name = dict(zip((trace["name"] for trace in lines(made)), first["data"][1:], strict=True))
    assert by_name["b"] == {"x": [], "y": []}
    assert by_name["a"] == {"x": [0, 1], "y": [1, 10]}


def test_axes_are_fixed_over_all_frames():
    layout = to_plotly(moving())["layout"]
    low, high = layout["xaxis"]["range"]
    assert low < 0 < 4 < high
    low, high = layout["yaxis"]["range"]
    assert low < math.log10(0.5) < 3 < high


def test_the_slider_names_its_steps():
    (slider,) = to_plotly(moving())["layout"]["sliders"]
    assert slider["currentvalue"]["prefix"] == "training step: "
    assert [step["label"] for step in slider["steps"]] == ["0", "9"]


def test_without_frames_axes_are_free_and_there_is_no_slider():
    layout = to_plotly(landscape())["layout"]
    assert "sliders" not in layout
    assert "range" not in layout["xaxis"]


@pytest.mark.parametrize("name", [SCRIPT, IMAGE, LINK, "<b>bold</b> & more"])
def test_plotly_gets_no_tags(name):
    panel = Panel(name, Axis(name), Axis(name), (Curve(name, name, (0,), (0,), low=(0,), high=(1,)),))
    figure = Figure("f", name, name, name, (panel,), (Frame(name, (panel,)),), name)
    assert "<" not in json.dumps(to_plotly(figure))


def test_an_empty_panel_is_still_a_panel():
    made = to_plotly(replace(landscape(), panels=(Panel("nothing", LINEAR, LOG, ()),)))
    assert made["data"] == []
    assert made["layout"]["yaxis"]["type"] == "log"


def mapped(x: Axis = LOG, cells=((1.0, math.nan), (3.0, 4.0), (5.0, 6.0))) -> Figure:
    heat = Heat("accuracy (%)", (0.1, 10.0), (1.0, 2.0, 3.0), cells, low=0, high=100)
    return Figure("f", "title", "caption", "alt", (Panel("panel", x, LINEAR, (), heat),))


def test_a_map_has_cells_around_its_grid_and_a_number_in_each():
    made = to_plotly(mapped())
    (trace,) = made["data"]
    assert len(go.Figure(made).data) == 1
    json.dumps(made, allow_nan=False)
    assert trace["x"] == pytest.approx([0.01, 1.0, 100.0])
    assert trace["y"] == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert trace["z"] == [[1.0, None], [3.0, 4.0], [5.0, 6.0]]
    assert trace["text"][2][0] == "y 0.1<br>x 3"
    assert trace["texttemplate"]
    assert (made["layout"]["coloraxis"]["cmin"], made["layout"]["coloraxis"]["cmax"]) == (0, 100)


def test_a_map_of_one_cell_has_ends():
    assert edges((1.0,), LINEAR) == pytest.approx([0.5, 1.5])
