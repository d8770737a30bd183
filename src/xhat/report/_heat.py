"""A panel's map in colours, in plotly's terms; every cell holds its number too, so that colour is not all."""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from xhat.report._points import Json
from xhat.report._words import short
from xhat.study.result import Axis, Heat, Panel


def heat_map(place: int, panel: Panel) -> Json:
    """Return the trace of a panel's map; the figure has one scale of colours for all panels."""
    heat = panel.heat
    assert heat is not None
    nth = str(place + 1) if place else ""
    x, y, title = (escape(words, quote=False) for words in (panel.x.title, panel.y.title, heat.title))
    names = [[f"{x} {short(column)}<br>{y} {short(row)}" for column in heat.x] for row in heat.y]
    return {
        "type": "heatmap",
        "xaxis": f"x{nth}",
        "yaxis": f"y{nth}",
        "x": edges(heat.x, panel.x),
        "y": edges(heat.y, panel.y),
        "z": [[value if math.isfinite(value) else None for value in row] for row in heat.cells],
        "coloraxis": "coloraxis",
        "text": names,
        "texttemplate": "%{z:.0f}",
        "hovertemplate": f"%{{text}}<br>{title} %{{z:.3g}}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
        "showlegend": False,
    }


def colour_axis(heat: Heat) -> Json:
    """Return the scale: light is more, in colours whose lightness alone tells the order (Cividis)."""
    title = {"text": escape(heat.title, quote=False), "side": "right", "font": {"size": 12}}
    bar = {"thickness": 10, "outlinewidth": 0, "tickfont": {"size": 11}, "title": title}
    return {"cmin": heat.low, "cmax": heat.high, "colorscale": "Cividis", "colorbar": bar}


def edges(centres: Sequence[float], axis: Axis) -> list[float]:
    """Return the ends of the cells, one more than there are centres: half way, on a log axis in logarithms."""
    places = [math.log(centre) for centre in centres] if axis.log else list(centres)
    middle = [(a + b) / 2 for a, b in pairwise(places)] or [places[0] + 0.5]
    ends = [2 * places[0] - middle[0], *middle]
    if len(places) > 1:
        ends.append(2 * places[-1] - middle[-1])
    return [math.exp(end) for end in ends] if axis.log else ends
