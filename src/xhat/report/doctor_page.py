"""A diagnosis as one HTML file that needs nothing else."""

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from xhat.doctor import RULES, Diagnosis, Finding, Severity
from xhat.doctor.case import Case, Statistics
from xhat.files import replacing
from xhat.lang import say, translator
from xhat.report import _words
from xhat.report._diagnosis import counts, groups, skipped_by_reason


@dataclass(frozen=True)
class Layer:
    """A norm's row in the table."""

    name: str
    kind: str  # class
    channels: int
    eps: float
    momentum: float | None
    low: float  # smallest, median and largest running variance, unbiased, of finite positive ones
    middle: float
    high: float
    bar: tuple[float, float, float] | None  # the same on the common log scale, 0 to 100
    codes: tuple[tuple[str, Severity], ...]


def build_doctor_page(model: nn.Module, diagnosis: Diagnosis, *, name: str = "", lang: str = "en") -> str:
    """Return the page as HTML: findings first, then the norms one by one.

    Args:
        model: What was diagnosed.
        diagnosis: What was found.
        name: What the model is called.
        lang: The page's language, "en" or "zh".

    Raises:
        UsageError: there is no such language.
    """
    translate = translator(lang)
    made = Environment(
        loader=PackageLoader("xhat.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"_": translate, "say": say}
    made.filters |= {"number": _words.number, "short": _words.short}
    return made.get_template("doctor.html.j2").render(
        name=name or type(model).__name__,
        lang=lang,
        css=files("xhat.report").joinpath("templates", "doctor.css").read_text(encoding="utf-8"),
        diagnosis=diagnosis,
        counts=counts(diagnosis),
        groups=groups(diagnosis.findings),
        skipped=skipped_by_reason(diagnosis),
        layers=_layers(model, diagnosis),
        rules=RULES,
    )


def write_doctor_page(
    model: nn.Module, diagnosis: Diagnosis, path: str | Path, *, name: str = "", lang: str = "en"
) -> Path:
    """Write the page beside its place, rename it into it, and return its path."""
    path = Path(path)
    with replacing(path) as part:
        page = build_doctor_page(model, diagnosis, name=name, lang=lang)
        part.write_text(page, encoding="utf-8", newline="\n")
    return path


def _layers(model: nn.Module, diagnosis: Diagnosis) -> list[Layer]:
    case = Case.of(model)
    held = {
        name: case.statistics(name)
        for name, _ in model.named_modules()
        if name in case.norms or name in case.fixed
    }
    ranges = {name: _range(has) for name, has in held.items()}
    ends = [math.log10(end) for found in ranges.values() if found for end in (found[0], found[2])]
    low, high = (math.floor(min(ends)), math.ceil(max(ends))) if ends else (0, 1)
    wide = max(high - low, 1)
    rows = []
    for name, has in held.items():
        module = model.get_submodule(name)
        found = ranges[name]
        bar = tuple(100 * (math.log10(end) - low) / wide for end in found) if found else None
        rows.append(
            Layer(
                name,
                type(module).__name__,
                int(getattr(module, "num_features", len(has.mean) if has else 0)),
                float(getattr(module, "eps", 0.0)),
                getattr(module, "momentum", None),
                *(found or (math.nan,) * 3),
                bar,  # type: ignore[arg-type]
                _codes(name, diagnosis),
            )
        )
    return rows


def _codes(name: str, diagnosis: Diagnosis) -> tuple[tuple[str, Severity], ...]:
    """Return the codes of findings that are of this norm, with their severities."""
    told = [f for f in diagnosis.findings if name == f.module or name in _named(f)]
    return tuple(dict.fromkeys((finding.code, finding.severity) for finding in told))


def _named(finding: Finding) -> list[str]:
    named = finding.evidence.get("norms", [])
    return list(named) if isinstance(named, list | tuple | dict) else []


def _range(has: Statistics | None) -> tuple[float, float, float] | None:
    if has is None:
        return None
    # 1e-30 stands for the denormal variances that dead channels end with.
    variance = has.variance[has.variance.isfinite() & (has.variance > 1e-30)]
    if not len(variance):
        return None
    return float(variance.min()), float(variance.median()), float(variance.max())
