"""A figure's axes, titles, slider and play button, in plotly's terms."""

import math
from collections.abc import Sequence
from html import escape

from xhat.report._heat import colour_axis, edges
from xhat.report._points import Json, floor_of, outline, points
from xhat.report._words import short
from xhat.study.result import Axis, Figure, Panel


def text(words: str) -> str:
    """Escape text for plotly, which reads some HTML tags in its strings."""
    return escape(words, quote=False)


def layout_of(figure: Figure, frames: Sequence[Sequence[Panel]]) -> Json:
    """Return the layout: panels in one row, axes that are fixed where frames move, slider and button."""
    panels = frames[0]
    layout: Json = {
        "grid": {"rows": 1, "columns": max(1, len(panels)), "pattern": "independent"},
        "annotations": [_title(place, panel.title) for place, panel in enumerate(panels)],
        "hovermode": "closest",
    }
    for place, panel in enumerate(panels):
        nth = str(place + 1) if place else ""
        over = [moment[place] for moment in frames]
        xs, ys = _extent(over)
        layout[f"xaxis{nth}"] = _axis(panel.x, xs, f"y{nth}", fixed=len(frames) > 1)
        layout[f"yaxis{nth}"] = _axis(panel.y, ys, f"x{nth}", fixed=len(frames) > 1)
    if heats := [panel.heat for panel in panels if panel.heat]:
        layout["coloraxis"] = colour_axis(heats[0])
    if figure.frames:
        labels = [text(frame.label) for frame in figure.frames]
        layout |= {"sliders": [_slider(text(figure.slider), labels)], "updatemenus": [_play()]}
    return layout


def _extent(panels: Sequence[Panel]) -> tuple[list[float], list[float]]:
    """Return all x and all y that a panel draws, over its frames."""
    floor = floor_of(panels)
    xs: list[float] = []
    ys: list[float] = []
    for panel in panels:
        for curve in panel.curves:
            for drawn in (points(curve, floor), outline(curve, floor)):
                xs += [x for x in drawn["x"] if x is not None]
                ys += [y for y in drawn["y"] if y is not None]
        if panel.heat:
            xs += edges(panel.heat.x, panel.x)
            ys += edges(panel.heat.y, panel.y)
    return xs, ys


def _axis(axis: Axis, values: Sequence[float], anchor: str, *, fixed: bool) -> Json:
    made: Json = {
        "type": "log" if axis.log else "linear",
        "title": {"text": text(axis.title)},
        "anchor": anchor,
    }
    if not values:
        return made
    low, high = (math.log10(end) if axis.log else end for end in (min(values), max(values)))
    if fixed:
        pad = 0.05 * (high - low) or 0.5 * (abs(high) or 1)
        made["range"] = [low - pad, high + pad]
    return made | (_log_ticks(low, high) if axis.log else {})


def _log_ticks(low: float, high: float) -> Json:
    """Mark powers of ten where there are enough of them, else round numbers."""
    if high - low > 3:
        decades = math.ceil((high - low) / 6)
        return {"dtick": decades} | ({"minor": {"ticks": "outside", "ticklen": 2}} if decades == 1 else {})
    digits = (1, 3) if high - low > 1.5 else (1, 2, 5)
    powers = range(math.floor(low) - 1, math.ceil(high) + 2)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    if low < high and sum(low <= math.log10(tick) <= high for tick in ticks) < 2:
        start, stop = 10**low, 10**high
        wanted = (stop - start) / 4
        power = math.floor(math.log10(wanted))
        step = next(digit * 10.0**power for digit in (1, 2, 5, 10) if digit * 10.0**power >= wanted)
        ticks = [step * nth for nth in range(max(1, math.floor(start / step)), math.ceil(stop / step) + 1)]
    return {"tickvals": ticks, "ticktext": [_tick(tick) for tick in ticks]}


def _tick(value: float) -> str:
    """Write a tick in few letters: 20k, 2×10⁶."""
    return f"{short(value / 1000)}k" if 1e4 <= value < 1e6 else short(value).replace(" ", "")


def _title(place: int, title: str) -> Json:
    """Put a panel's title above it, bound to its axes, so that it follows them."""
    nth = str(place + 1) if place else ""
    at = {"xref": f"x{nth} domain", "yref": f"y{nth} domain", "x": 0, "y": 1, "yshift": 6}
    return at | {
        "text": text(title),
        "showarrow": False,
        "xanchor": "left",
        "yanchor": "bottom",
        "align": "left",
    }


_NOW = {"mode": "immediate", "transition": {"duration": 0}, "frame": {"duration": 0, "redraw": True}}


def _slider(prefix: str, labels: Sequence[str]) -> Json:
    steps = [
        {"label": label, "method": "animate", "args": [[str(nth)], _NOW]} for nth, label in enumerate(labels)
    ]
    return {"active": 0, "currentvalue": {"prefix": f"{prefix}: " if prefix else ""}, "steps": steps}


def _play() -> Json:
    pace = {"mode": "immediate", "transition": {"duration": 0}, "frame": {"duration": 400, "redraw": True}}
    button = {"label": "Play", "method": "animate", "args": [None, pace]}
    return {
        "type": "buttons",
        "showactive": False,
        "x": 0,
        "y": 0,
        "xanchor": "right",
        "yanchor": "top",
        "buttons": [button],
    }
