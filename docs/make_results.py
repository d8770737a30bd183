"""Ship a measured ``full`` run and write docs/results.md, its tables and figures.

    python docs/make_results.py --from xhat-full   # ship the study of that folder, then write the page
    python docs/make_results.py                    # write the page anew from what is shipped

The figures are pictures of the report's own, taken in Debian's Chromium. ``docs/results/figures.json`` holds a
hash of each figure's numbers: ``tests/test_results.py`` holds page and figures against the shipped evidence.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xhat.report import write_page
from xhat.report._words import duration, moment, number, short
from xhat.report.evidence import SHIPPED, shipped, write_shipped
from xhat.study import codec
from xhat.study.result import ClaimResult, Effect, Figure, LawResult, Study
from xhat.study.store import Store

PAGE = Path(__file__).with_name("results.md")
PICTURES = Path(__file__).with_name("results")
WIDTH = 1000  # pixels of a picture

HEAD = """\
# Measured results

<!-- Written by docs/make_results.py from the evidence that xhat ships: do not edit. -->

What `xhat study --preset full` found. The same numbers are in the package, and the page of a smaller run shows
them beside its own. [The study](study.md) says how verdicts are drawn, [Claims and laws](claims.md) what was
measured and what it does not show. Contradicted and inconclusive claims stand here like the others.
"""


def page(study: Study) -> str:
    """Return the document as Markdown."""
    return (
        "\n".join([HEAD, *_origin(study), *_overview(study), *_laws(study), *_claims(study)]).rstrip() + "\n"
    )


def _origin(study: Study) -> Iterator[str]:
    made = study.environment
    judged = f", judged with `{study.judged_with}`" if study.judged_with else ""
    facts = {
        "measured": f"{moment(study.measured_from)} to {moment(study.measured_to)}, commit `{made.commit}`{judged}",
        "work": f"{duration(study.work)} of one core for all runs",
        "machine": f"{made.processor}, {made.cores} cores, {made.workers} workers, "
        f"{made.threads_per_run} thread a run",
        "software": f"xhat {made.xhat}, torch {made.torch}, NumPy {made.numpy}, Python {made.python}, {made.platform}",
    }
    yield "| | |\n|---|---|"
    yield from (f"| {name} | {value} |" for name, value in facts.items())
    yield ""


def _overview(study: Study) -> Iterator[str]:
    yield "## All claims\n"
    yield "Estimates with their 95% intervals over seeds, and the threshold that was set before the first run.\n"
    yield "| claim | verdict | deciding effect | estimate | asked | seeds |\n|---|---|---|---|---|---|"
    for claim in study.claims:
        head = f"[{claim.text.title}](#{claim.text.id}) | **{claim.verdict}**"
        for effect in (effect for effect in claim.effects if effect.primary):
            yield f"| {head} | {_cells(effect)} |"
            head = " | "
    yield ""


def _cells(effect: Effect) -> str:
    name = f"{effect.name} ({effect.unit})"
    return " | ".join((_plain(name), _estimate(effect), _asked(effect), str(effect.seeds)))


def _estimate(effect: Effect) -> str:
    at_least = "≥ " if effect.at_least else ""
    return f"{at_least}{number(effect.estimate)} [{number(effect.low)}, {number(effect.high)}]"


def _asked(effect: Effect) -> str:
    return f"{'> ' if effect.rule == 'above' else 'within ±'}{short(effect.threshold)}"


def _plain(words: str) -> str:
    """Return words that Markdown leaves as they are, in a table too."""
    for sign in "|<>*_":
        words = words.replace(sign, f"\\{sign}")
    return words


def _laws(study: Study) -> Iterator[str]:
    yield "## Laws\n"
    yield "Exact statements in float64.\n"
    yield "| law | outcome | check nearest to its tolerance | largest error | tolerance |\n|---|---|---|---|---|"
    for law in study.laws:
        worst = law.worst
        assert worst is not None
        cells = (_plain(worst.name), number(worst.error), short(worst.tolerance))
        yield f"| `{law.id}` | {_outcome(law)} | {' | '.join(cells)} |"
    yield ""


def _outcome(law: LawResult) -> str:
    return "holds" if law.passed else "**fails**"


def _claims(study: Study) -> Iterator[str]:
    for claim in study.claims:
        yield f"## {claim.text.id}\n"
        yield f"{claim.text.title}: **{claim.verdict}**. {_plain(claim.text.threshold)}\n"
        if claim.text.changes:
            yield f"Changed after a first run: {_plain(claim.text.changes)}\n"
        yield from (f"- {_plain(words)}" for words in claim.found)
        yield ""
        for figure in claim.figures[:1]:
            yield f"![{_plain(figure.alt)}](results/{picture(claim, figure)})\n"
            yield f"*{_plain(figure.title)}.* {_plain(figure.caption)}\n"
        yield "| effect | estimate | asked | seeds | verdict |\n|---|---|---|---|---|"
        for effect in claim.effects:
            verdict = effect.verdict if effect.primary else "outside the verdict"
            yield f"| {_cells(effect)} | {verdict} |"
        yield ""


def picture(claim: ClaimResult, figure: Figure) -> str:
    """Return the file name of a figure's picture."""
    return f"{claim.text.id}-{claim.figures.index(figure) + 1}.png"


def hashes(study: Study) -> dict[str, str]:
    """Return, by picture, the hash of the numbers and words that it shows."""
    return {
        picture(claim, figure): hashlib.sha256(codec.dumps(figure).encode()).hexdigest()
        for claim in study.claims
        for figure in claim.figures[:1]
    }


def draw(study: Study) -> None:
    """Take a picture of each claim's first figure."""
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.png"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        report = write_page(study, Path(folder) / "report.html")
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page(
            viewport={"width": WIDTH, "height": 900}, color_scheme="light", device_scale_factor=1.5
        )
        tab.goto(report.as_uri())
        for claim in study.claims:
            for figure in claim.figures[:1]:
                drawn = tab.locator(f"#claim-{claim.text.id}-figure-1")
                drawn.scroll_into_view_if_needed()
                drawn.locator(".main-svg, svg").first.wait_for()
                drawn.screenshot(path=PICTURES / picture(claim, figure), animations="disabled")
        browser.close()
    (PICTURES / "figures.json").write_text(json.dumps(hashes(study), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Ship if asked, then write the page and its pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from", dest="store", type=Path, help="folder of a whole `xhat study --preset full`"
    )
    arguments = parser.parse_args()
    if arguments.store:
        write_shipped(Store(arguments.store).get_study(), SHIPPED)
        shipped.cache_clear()
    study = shipped()
    if study is None:
        parser.error(
            "no full run is shipped yet: measure one with `xhat study --preset full`, name it with --from"
        )
    draw(study)
    PAGE.write_text(page(study), encoding="utf-8")


if __name__ == "__main__":
    main()
