"""The page: a study as one HTML file that needs nothing else, neither a network nor a server."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from xhat.files import replacing
from xhat.lang import LANGUAGES, Translate, say, translator
from xhat.report import _words
from xhat.report._bars import is_ratio
from xhat.report._points import Json
from xhat.report._styles import arms_of
from xhat.report._texts import translated
from xhat.report._views import OPEN_QUESTION, ClaimView, views
from xhat.report.evidence import shipped
from xhat.report.figures import to_plotly
from xhat.study.result import LawResult, Study

_NAMES = {"en": "English", "zh": "中文"}


def build_page(study: Study, *, lang: str = "en", links: Mapping[str, str] | None = None) -> str:
    """Return the page as HTML, with the verdicts of the shipped full run beside those of any other run.

    Every script is named in the page's content security policy by its hash, so that nothing else runs
    and nothing is fetched.

    Args:
        study: What was found.
        lang: The page's language, "en" or "zh".
        links: Where the page lies in other languages, by language.

    Raises:
        UsageError: there is no such language.
    """
    translate = translator(lang)
    scripts = {"plotly": get_plotlyjs(), "js": _asset("page.js"), "filter": _asset("filter.js")}
    full = shipped() if study.preset != "full" or study.subject else None
    claims = views(study, full, translate)
    laws = [translated(law, translate) for law in study.laws]
    return (
        _templates(translate)
        .get_template("page.html.j2")
        .render(
            study=translated(study, translate),
            claims=claims,
            full=full,
            beside=_beside(study, full, translate),
            open_question=next((view for view in claims if view.claim.text.id == OPEN_QUESTION), None),
            laws=laws,
            figures=_figures(claims, laws),
            verdicts=_tally(("supported", "contradicted", "inconclusive"), (c.verdict for c in study.claims)),
            outcomes=_tally(("holds", "fails"), ("holds" if law.passed else "fails" for law in laws)),
            lang=lang,
            others=[(code, _NAMES[code], (links or {}).get(code)) for code in LANGUAGES if code != lang],
            hashes=" ".join(f"'{_hash(code)}'" for code in scripts.values()),
            css=_asset("page.css"),
            scripts=list(scripts.values()),
        )
    )


def write_page(
    study: Study, path: str | Path, *, lang: str = "en", links: Mapping[str, str] | None = None
) -> Path:
    """Write the page beside its place, rename it into it, and return its path."""
    path = Path(path)
    with replacing(path) as part:
        part.write_text(build_page(study, lang=lang, links=links), encoding="utf-8", newline="\n")
    return path


def write_pages(study: Study, folder: str | Path) -> dict[str, Path]:
    """Write the page in every language, each with links to the others; return their paths by language."""
    names = {lang: "report.html" if lang == "en" else f"report.{lang}.html" for lang in LANGUAGES}
    return {
        lang: write_page(study, Path(folder) / name, lang=lang, links=names) for lang, name in names.items()
    }


def _beside(study: Study, full: Study | None, translate: Translate) -> str:
    """Return what the shipped run's column is called; "" without one."""
    if full is None:
        return ""
    return translate("xhat’s own full run") if study.subject else translate("Full run")


def _templates(translate: Translate) -> Environment:
    made = Environment(
        loader=PackageLoader("xhat.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    made.globals |= {"_": translate, "say": say}
    made.filters |= {
        "columns": partial(_words.columns, yes=translate("yes"), no=translate("no")),
        "duration": _words.duration,
        "id": _id,
        "moment": _words.moment,
        "number": _words.number,
        "seeds": _words.seeds,
        "short": _words.short,
        "wide": _words.wide,
    }
    made.tests["ratio"] = is_ratio
    return made


def _asset(name: str) -> str:
    return files("xhat.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def _figures(claims: Iterable[ClaimView], laws: Iterable[LawResult]) -> dict[str, Json]:
    """Return every figure by its element's id; one section's figures share their colours."""
    parts = {view.id: view.claim.figures for view in claims} | {_id(law): law.figures for law in laws}
    return {
        f"{place}-figure-{nth}": to_plotly(figure, arms=arms_of(drawn))
        for place, drawn in parts.items()
        for nth, figure in enumerate(drawn, start=1)
    }


def _id(law: LawResult) -> str:
    return f"law-{_words.anchor(law.id)}"


def _tally(words: tuple[str, ...], found: Iterable[str]) -> list[tuple[str, int]]:
    counts = Counter(found)
    return [(word, counts[word]) for word in words]
