"""A figure's description made into a plotly figure: plain data for ``Plotly.newPlot`` and ``go.Figure``.

Bands are filled polygons, drawn below all lines. With frames, the traces are those of all frames
together, so that a slider only exchanges x and y, and the axes are fixed over all frames.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xhat.report._heat import heat_map
from xhat.report._layout import layout_of, text
from xhat.report._points import Json, floor_of, outline, points
from xhat.report._styles import Style, arms_of, panels_of, style
from xhat.study.result import Curve, Figure, Panel

Key = tuple[int, str, str, bool, int]  # panel, name, arm, dashed, occurrence


def to_plotly(figure: Figure, *, arms: Sequence[str] | None = None) -> Json:
    """Return ``data``, ``layout`` and ``frames`` of a plotly figure.

    Args:
        figure: The description.
        arms: Arms without a fixed colour, in the order in which colours are handed out; by default
            the figure's own. Figures that belong together are given the same.
    """
    free = tuple(arms_of([figure]) if arms is None else arms)
    frames = panels_of(figure)
    keyed = [_keyed(panels) for panels in frames]
    first = {key: curve for curves in reversed(keyed) for key, curve in curves.items()}
    order = sorted(first, key=lambda key: key[0])
    floors = [floor_of(panels) for panels in zip(*frames, strict=True)]
    styles = _styles(first, order, free)
    banded = [key for key in order if any(_has_band(curves.get(key)) for curves in keyed)]
    crowd = max(Counter(key[0] for key in banded).values(), default=1)
    data = [_band(key, styles[key].fill(crowd)) for key in banded]
    shown: set[tuple[str, str, bool]] = set()
    for key in order:
        data.append(_line(key, first[key], styles[key], legend=key[1:4] not in shown))
        shown.add(key[1:4])
    drawn = [
        [outline(curves.get(key), floors[key[0]]) for key in banded]
        + [points(curves.get(key), floors[key[0]]) for key in order]
        for curves in keyed
    ]
    for trace, start in zip(data, drawn[0], strict=True):
        trace.update(start)
    # A map has no slider: it stands outside the frames.
    data += [heat_map(place, panel) for place, panel in enumerate(frames[0]) if panel.heat]
    layout = layout_of(figure, frames)
    return {"data": data, "layout": layout, "frames": _frames(drawn) if figure.frames else []}


def _keyed(panels: Sequence[Panel]) -> dict[Key, Curve]:
    """Name each curve by its place, so that it is found again in other frames."""
    found: dict[Key, Curve] = {}
    for place, panel in enumerate(panels):
        for curve in panel.curves:
            nth = sum(key[:4] == (place, curve.name, curve.arm, curve.dashed) for key in found)
            found[place, curve.name, curve.arm, curve.dashed, nth] = curve
    return found


def _styles(first: Mapping[Key, Curve], order: Iterable[Key], arms: tuple[str, ...]) -> dict[Key, Style]:
    """Give each curve its style: the same name looks the same in every panel.

    An arm's first line is solid, and its first dashed one dashed, as captions say; points take no dash.
    """
    names: dict[tuple[str, bool], list[str]] = {}
    styles: dict[Key, Style] = {}
    for key in order:
        _, name, arm, dashed, _ = key
        seen = names.setdefault((arm, dashed), [])
        if name not in seen and first[key].mode != "markers":
            seen.append(name)
        nth = seen.index(name) if name in seen else 0
        styles[key] = style(arm, nth, dashed=dashed, arms=arms)
    return styles


def _line(key: Key, curve: Curve, look: Style, *, legend: bool) -> Json:
    marker: Json = {"color": look.colour, "symbol": look.symbol, "size": 7}
    if curve.mode == "lines":
        # A few markers on each line, or only its colour would tell its arm.
        marker["maxdisplayed"] = 7
    trace = _trace(key, name=text(key[1]), showlegend=legend, marker=marker)
    if curve.mode == "markers":
        marker["opacity"] = 0.75
        return trace | {"mode": "markers"}
    return trace | {"mode": "lines+markers", "line": {"color": look.colour, "dash": look.dash, "width": 2}}


def _band(key: Key, fill: str) -> Json:
    return _trace(
        key,
        name=text(key[1]),
        showlegend=False,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=fill,
        hoverinfo="skip",
    )


def _trace(key: Key, **more: Any) -> Json:
    place, name, arm, dashed, _ = key
    nth = str(place + 1) if place else ""
    group = f"{text(arm)}/{dashed:d}/{text(name)}"
    return {"type": "scatter", "xaxis": f"x{nth}", "yaxis": f"y{nth}", "legendgroup": group, **more}


def _has_band(curve: Curve | None) -> bool:
    return curve is not None and curve.low is not None and curve.high is not None


def _frames(drawn: Sequence[Sequence[Json]]) -> list[Json]:
    return [
        {"name": str(nth), "data": list(traces), "traces": list(range(len(traces)))}
        for nth, traces in enumerate(drawn)
    ]
