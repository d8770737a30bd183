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
# Other arms take these in turn; seven and eight have no common divisor, so pairs repeat after 56.
_COLOURS = (
    "#E69F00",
    "#56B4E9",
    "#808080",  # the palette's black: it has to show on a dark page
    "#B5A400",  # its yellow, darkened: it has to show on white
    "#009E73",
    "#CC79A7",
    "#8C564B",  # not the palette's: its blue and vermilion belong to BN and to none
    "#7A6FD0",
)
_SYMBOLS = ("triangle-up", "triangle-down", "cross", "star", "triangle-left", "triangle-right", "hourglass")
_DASHES = {False: ("solid", "dot", "dashdot"), True: ("dash", "longdash", "longdashdot")}


@dataclass(frozen=True)
class Style:
    """How one curve is drawn."""

    colour: str
    symbol: str
    dash: str

    def fill(self, bands: int) -> str:
        """Return the colour of the curve's band: fainter where many lie on one another."""
        red, green, blue = (int(self.colour[at : at + 2], 16) for at in (1, 3, 5))
        return f"rgba({red},{green},{blue},{min(0.16, max(0.05, 0.5 / bands)):.2f})"


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
        place = arms.index(arm)
        colour, symbol = _COLOURS[place % len(_COLOURS)], _SYMBOLS[place % len(_SYMBOLS)]
    dashes = _DASHES[dashed]
    return Style(colour, symbol, dashes[nth % len(dashes)])
