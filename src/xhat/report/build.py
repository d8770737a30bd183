"""The page: a study as one HTML file that needs nothing else, neither a network nor a server."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from xhat.report import _words
from xhat.report._bars import bar
from xhat.report._files import replacing
from xhat.report._points import Json
from xhat.report._styles import arms_of
from xhat.report.figures import to_plotly
from xhat.study.result import ClaimResult, LawCheck, LawResult, Study


def build_page(study: Study) -> str:
    """Return the page as HTML.

    Every script is named in the page's content security policy by its hash, so that nothing else runs
    and nothing is fetched.
    """
    scripts = {"plotly": get_plotlyjs(), "js": _asset("page.js")}
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            study=study,
            figures=_figures(study),
            verdicts=_tally(("supported", "contradicted", "inconclusive"), (c.verdict for c in study.claims)),
            laws=_tally(("holds", "fails"), ("holds" if law.passed else "fails" for law in study.laws)),
            hashes=" ".join(f"'{_hash(code)}'" for code in scripts.values()),
            css=_asset("page.css"),
            **scripts,
        )
    )


def write_page(study: Study, path: str | Path) -> Path:
    """Write the page beside its place, rename it into it, and return its path."""
    path = Path(path)
    with replacing(path) as part:
        part.write_text(build_page(study), encoding="utf-8", newline="\n")
    return path


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("xhat.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    made.filters |= {
        "bar": bar,
        "columns": _words.columns,
        "counted": _words.counted,
        "duration": _words.duration,
        "id": _id,
        "moment": _words.moment,
        "number": _words.number,
        "seeds": _seeds,
        "short": _words.short,
        "worst": _worst,
    }
    return made


def _asset(name: str) -> str:
    return files("xhat.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def _figures(study: Study) -> dict[str, Json]:
    """Return every figure by its element's id; one section's figures share their colours."""
    parts: tuple[ClaimResult | LawResult, ...] = (*study.claims, *study.laws)
    return {
        f"{_id(part)}-figure-{nth}": to_plotly(figure, arms=arms_of(part.figures))
        for part in parts
        for nth, figure in enumerate(part.figures, start=1)
    }


def _id(part: ClaimResult | LawResult) -> str:
    if isinstance(part, ClaimResult):
        return f"claim-{_words.anchor(part.text.id)}"
    return f"law-{_words.anchor(part.id)}"


def _tally(words: tuple[str, ...], found: Iterable[str]) -> list[tuple[str, int]]:
    counts = Counter(found)
    return [(word, counts[word]) for word in words]


def _seeds(claim: ClaimResult) -> str:
    """Return the number of seeds behind a claim's effects, as a range where they differ."""
    counts = sorted({effect.seeds for effect in claim.effects})
    return "–".join(str(count) for count in dict.fromkeys(counts[:1] + counts[-1:])) or "–"


def _worst(law: LawResult) -> LawCheck | None:
    """Return the check that comes nearest to its tolerance, or exceeds it most."""

    def share(check: LawCheck) -> tuple[bool, float]:
        if math.isnan(check.error):
            return not check.passed, math.inf
        return not check.passed, check.error / check.tolerance if check.tolerance else check.error

    return max(law.checks, key=share, default=None)
