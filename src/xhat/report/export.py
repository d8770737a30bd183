"""A study as tidy tables: one row an effect, a law's check, a point of a curve."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from xhat.errors import UsageError, unknown
from xhat.files import replacing
from xhat.study.result import Curve, Figure, Panel, Study

Format = Literal["csv", "parquet"]

_EFFECTS = {
    "claim": "str",
    "effect": "str",
    "unit": "str",
    "estimate": "float64",
    "low": "float64",
    "high": "float64",
    "threshold": "float64",
    "rule": "str",
    "seeds": "int64",
    "verdict": "str",
    "primary": "bool",
    "at_least": "bool",
    "note": "str",
    "claim_verdict": "str",
}
_LAWS = {
    "law": "str",
    "check": "str",
    "error": "float64",
    "tolerance": "float64",
    "passed": "bool",
    "law_passed": "bool",
}
_CURVES = {
    "kind": "str",  # claim or law
    "id": "str",
    "figure": "str",
    "frame": "str",  # the slider's position; empty without one
    "panel": "str",
    "curve": "str",
    "arm": "str",
    "x": "float64",
    "y": "float64",
    "low": "float64",
    "high": "float64",
}


def study_tables(study: Study) -> dict[str, pd.DataFrame]:
    """Return the tables ``effects``, ``laws`` and ``curves``; a study without such rows has empty ones."""
    return {
        "effects": _frame(_EFFECTS, _effects(study)),
        "laws": _frame(_LAWS, _laws(study)),
        "curves": _frame(_CURVES, _curves(study)),
    }


def write_tables(
    tables: Mapping[str, pd.DataFrame], folder: str | Path, format: Format = "csv"
) -> list[Path]:
    """Write each table as one file of its name, beside its place and renamed into it.

    Raises:
        UsageError: The format does not exist, or is parquet and pyarrow is not installed.
    """
    if format not in get_args(Format):
        raise unknown("format", format, get_args(Format))
    if format == "parquet" and find_spec("pyarrow") is None:
        raise UsageError(
            "Parquet files are written by pyarrow, which is not installed. "
            "Install xhat with its extra `parquet`, or write csv."
        )
    written = []
    for name, table in tables.items():
        path = Path(folder) / f"{name}.{format}"
        with replacing(path) as part:
            _write(table, part, format)
        written.append(path)
    return written


def _write(table: pd.DataFrame, path: Path, format: Format) -> None:
    if format == "csv":
        table.to_csv(path, index=False, lineterminator="\n")
    else:
        table.to_parquet(path, index=False, engine="pyarrow")


def _frame(columns: Mapping[str, str], rows: Iterator[tuple[Any, ...]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(columns)).astype(dict(columns))


def _effects(study: Study) -> Iterator[tuple[Any, ...]]:
    for claim in study.claims:
        for effect in claim.effects:
            own = (effect.name, effect.unit, effect.estimate, effect.low, effect.high, effect.threshold)
            rule = (effect.rule, effect.seeds, effect.verdict, effect.primary, effect.at_least, effect.note)
            yield (claim.text.id, *own, *rule, claim.verdict)


def _laws(study: Study) -> Iterator[tuple[Any, ...]]:
    for law in study.laws:
        for check in law.checks:
            yield (law.id, check.name, check.error, check.tolerance, check.passed, law.passed)


def _curves(study: Study) -> Iterator[tuple[Any, ...]]:
    parts = [("claim", claim.text.id, claim.figures) for claim in study.claims]
    parts += [("law", law.id, law.figures) for law in study.laws]
    for kind, name, figures in parts:
        for figure in figures:
            for frame, panel, curve in _drawn(figure):
                for point in _points(curve):
                    yield (kind, name, figure.id, frame, panel, curve.name, curve.arm, *point)


def _drawn(figure: Figure) -> Iterator[tuple[str, str, Curve]]:
    frames = [(frame.label, frame.panels) for frame in figure.frames] or [("", figure.panels)]
    for label, panels in frames:
        for panel in panels:
            for curve in (*panel.curves, *_rows(panel)):
                yield label, panel.title, curve


def _rows(panel: Panel) -> Iterator[Curve]:
    """Yield each row of a map as a curve of its numbers over x, named by its y."""
    if panel.heat is not None:
        for y, cells in zip(panel.heat.y, panel.heat.cells, strict=True):
            yield Curve(f"{panel.heat.title}; {panel.y.title} = {y:g}", "", panel.heat.x, cells)


def _points(curve: Curve) -> Iterator[tuple[float, ...]]:
    missing = (float("nan"),) * len(curve.y)
    yield from zip(curve.x, curve.y, curve.low or missing, curve.high or missing, strict=True)
