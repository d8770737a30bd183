"""Colours, markers and dashes by arm: a colour is never the only thing that tells two curves apart."""

from collections.abc import Iterable
from dataclasses import dataclass

from xhat.study.result import Figure, Panel

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_FIXED = {
    "batch": ("#0072B2", "circle"),
    "none": ("#D55E00", "x"),
    "layer": ("#009E73", "square"),
    "group": ("#CC79A7", "diamond"),
}
_FREE = (
    ("#E69F00", "triangle-up"),
    ("#56B4E9", "triangle-down"),
    ("#808080", "cross"),
    ("#B5A400", "star"),  # the palette's yellow, darkened: it has to show on white
)
_DASHES = {False: ("solid", "dot", "dashdot"), True: ("dash", "longdash", "longdashdot")}


@dataclass(frozen=True)
class Style:
    """How one curve is drawn."""

    colour: str
    symbol: str
    dash: str

    @property
    def fill(self) -> str:
        """The colour of the curve's band."""
        red, green, blue = (int(self.colour[at : at + 2], 16) for at in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.16)"


def panels_of(figure: Figure) -> tuple[tuple[Panel, ...], ...]:
    """Return the figure's panels, frame by frame; a figure without a slider has one frame."""
    return tuple(frame.panels for frame in figure.frames) or (figure.panels,)


def arms_of(figures: Iterable[Figure]) -> tuple[str, ...]:
    """Return the arms without a fixed colour, by first appearance, so that figures can share theirs."""
    found = {
        curve.arm: None
        for figure in figures
        for panels in panels_of(figure)
        for panel in panels
        for curve in panel.curves
    }
    return tuple(arm for arm in found if arm not in _FIXED)


def style(arm: str, nth: int, *, dashed: bool, arms: tuple[str, ...]) -> Style:
    """Return the style of an arm's ``nth`` curve: colour and marker by arm, dash by order."""
    if arm in _FIXED:
        colour, symbol = _FIXED[arm]
    else:
        colour, symbol = _FREE[arms.index(arm) % len(_FREE)]
    dashes = _DASHES[dashed]
    return Style(colour, symbol, dashes[nth % len(dashes)])
