"""What a law or a claim says after it was measured: plain data that the store keeps and the report draws.

A figure here is a description (panels, curves, bands), not a picture: the report turns it into one, so
that a claim's file holds no plotting code and all figures look alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xhat.lang import listed, say

Verdict = Literal["supported", "contradicted", "inconclusive"]


@dataclass(frozen=True)
class Curve:
    """One line, or one cloud of points, with an optional band.

    ``arm`` chooses the colour: "batch", "none", "layer", "group", or any other name.
    """

    name: str
    arm: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None  # band, same length as y
    high: tuple[float, ...] | None = None
    mode: Literal["lines", "markers", "lines+markers"] = "lines"
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: its title names quantity and unit."""

    title: str
    log: bool = False


@dataclass(frozen=True)
class Heat:
    """A number in every cell of a grid, shown by colour and written into the cell."""

    title: str  # of the numbers, with their unit
    x: tuple[float, ...]  # columns, ascending
    y: tuple[float, ...]  # rows, ascending from below
    cells: tuple[tuple[float, ...], ...]  # a row for every y
    low: float  # ends of the colour scale; a figure's panels share them
    high: float


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its curves, or with a map in colours."""

    title: str
    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    heat: Heat | None = None


@dataclass(frozen=True)
class Frame:
    """What all panels show at one position of a slider."""

    label: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Figure:
    """Panels side by side; with ``frames`` a slider moves through them (``panels`` is then the first)."""

    id: str
    title: str
    caption: str  # how to read it; says what the bands are
    alt: str  # what is seen, in words, for those who do not see it
    panels: tuple[Panel, ...]
    frames: tuple[Frame, ...] = ()
    slider: str = ""  # what the slider moves through, e.g. "training step"


@dataclass(frozen=True)
class Table:
    """A small table; cells are shown as they are, floats with three significant digits."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]


@dataclass(frozen=True)
class Effect:
    """One paired effect with its 95% interval over seeds, held against a threshold set beforehand.

    The interval is Student's t unless ``note`` says otherwise, with an infinite end where a grid ended.

    ``rule`` "above": supported if the whole interval lies above ``threshold``, contradicted if it lies
    below. ``rule`` "within": supported if the whole interval lies inside ±``threshold``, contradicted if
    it lies outside. Anything else is inconclusive.
    """

    name: str
    unit: str  # e.g. "ratio, none / batch" or "points of accuracy"
    estimate: float
    low: float
    high: float
    threshold: float
    rule: Literal["above", "within"]
    seeds: int  # pairs that entered
    verdict: Verdict
    primary: bool = True  # enters the claim's verdict
    at_least: bool = False  # a grid ended before an arm failed: the effect is at least this
    note: str = ""


@dataclass(frozen=True)
class ClaimText:
    """What a claim is, in words that stand before any measurement."""

    id: str
    title: str
    says: str  # what the notes say
    measured: str  # how it is measured here
    threshold: str  # the rule of its verdict, in words
    does_not_show: str
    source: str
    expected: str  # the number or outcome that the source reports
    cost: str  # time on 2 cores, by preset
    changes: str = ""  # what of the protocol was changed after a first run, and why


@dataclass(frozen=True)
class ClaimResult:
    """A claim after its measurement."""

    text: ClaimText
    verdict: Verdict
    found: tuple[str, ...]  # sentences made from the numbers
    effects: tuple[Effect, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    runs: tuple[str, ...] = ()  # keys of the runs it rests on
    seconds: float = 0.0  # summed time of those runs, one thread each


@dataclass(frozen=True)
class LawCheck:
    """One comparison of a law: the largest error found, and what rounding allows."""

    name: str
    error: float
    tolerance: float
    passed: bool


@dataclass(frozen=True)
class LawResult:
    """A law after its check in float64."""

    id: str
    title: str
    statement: str  # the law in one or two sentences, with its formula in plain text
    source: str
    checks: tuple[LawCheck, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def worst(self) -> LawCheck | None:
        """The check that comes nearest to its tolerance, or exceeds it most; None without checks."""

        def share(check: LawCheck) -> tuple[bool, float]:
            if math.isnan(check.error):
                return not check.passed, math.inf
            return not check.passed, check.error / check.tolerance if check.tolerance else check.error

        return max(self.checks, key=share, default=None)


@dataclass(frozen=True)
class Environment:
    """Where the numbers were made."""

    xhat: str
    commit: str
    python: str
    torch: str
    numpy: str
    platform: str
    processor: str
    cores: int
    workers: int
    threads_per_run: int
    memory_reused: bool


@dataclass(frozen=True)
class Study:
    """Everything one study found: what the report is built from."""

    preset: str
    asked: str  # what was asked, in one sentence
    subject: str  # the user's network and data, or "" for ours
    started: str  # ISO 8601, UTC
    seconds: float
    environment: Environment
    claims: tuple[ClaimResult, ...] = ()
    laws: tuple[LawResult, ...] = ()
    unfinished: tuple[str, ...] = ()  # claims and laws asked for and not yet measured
    problems: tuple[str, ...] = ()  # runs that failed, in words
    # When the runs were made, ISO 8601, UTC: a study that finds them in the store is younger than they are.
    measured_from: str = ""
    measured_to: str = ""
    work: float = 0.0  # seconds of one thread that all runs took together
    judged_with: str = ""  # the commit whose claims judged the runs, where it is not the one that made them

    @property
    def when(self) -> str:
        """When the numbers were made: the first run's begin, ISO 8601."""
        return self.measured_from or self.started

    @property
    def found_ready(self) -> bool:
        """Whether most of the work was done before: the study's own time then says nothing of the runs'."""
        return self.seconds * max(1, self.environment.workers) < 0.5 * self.work


def law_check(name: str, error: float, tolerance: float) -> LawCheck:
    """Hold an error against its tolerance; NaN fails."""
    return LawCheck(name, float(error), float(tolerance), bool(error <= tolerance))


def overall(effects: Sequence[Effect]) -> Verdict:
    """Return the verdict of a claim from its primary effects.

    Supported only if every one is, contradicted if every one is or if some are and none is supported;
    parts that disagree make it inconclusive.
    """
    verdicts = {effect.verdict for effect in effects if effect.primary}
    if verdicts == {"supported"}:
        return "supported"
    if "contradicted" in verdicts and "supported" not in verdicts:
        return "contradicted"
    return "inconclusive"


def disagreement(effects: Sequence[Effect]) -> str:
    """Say in a sentence which parts disagree, or leave a claim open; return "" if there is nothing to say."""
    primary = [effect for effect in effects if effect.primary]
    parts = {
        verdict: [effect.name for effect in primary if effect.verdict == verdict]
        for verdict in ("supported", "contradicted")
    }
    open_ = [effect.name for effect in primary if effect.verdict == "inconclusive"]
    if open_ and not parts["contradicted"] and parts["supported"]:
        return say("Left open by: {parts}. The other parts are supported.", parts=listed(open_))
    if not (parts["supported"] and parts["contradicted"]):
        return ""
    return say(
        "The parts of this claim disagree, so that it is neither supported nor contradicted as a whole. "
        "Supported: {supported}. Contradicted: {contradicted}.",
        supported=listed(parts["supported"]),
        contradicted=listed(parts["contradicted"]),
    )
