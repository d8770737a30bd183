"""A study's findings as the terminal shows them."""

import math

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from xhat.lang import Translate, say
from xhat.report import translated
from xhat.study.result import Effect, Study

COLOURS = {
    "supported": "green",
    "contradicted": "red",
    "inconclusive": "yellow",
    "holds": "green",
    "fails": "red",
}


def print_study(console: Console, study: Study, _: Translate = str) -> None:
    """Print the laws' outcome, each claim with its verdict and deciding effects, and what went wrong."""
    study = translated(study, _)
    if study.laws:
        failed = [law.id for law in study.laws if not law.passed]
        state = (
            Text(_("all hold"), "green") if not failed else Text(f"{_('fail')}: {', '.join(failed)}", "red")
        )
        count = len(study.laws)
        one, many = say("{count} law, float64:", count=count), say("{count} laws, float64:", count=count)
        console.print(Text(f"\n{_(one if count == 1 else many)} ").append(state))
    for claim in study.claims:
        console.print(Text(f"\n{claim.text.id}  ", "bold").append(verdict(claim.verdict, _)))
        print_effects(console, claim.effects, _, notes=study.preset != "smoke")
    if study.claims:
        counts = ((word, sum(claim.verdict == word for claim in study.claims)) for word in COLOURS)
        console.print(
            "\n" + ", ".join(f"{count} {_(word)}" for word, count in counts if count), highlight=False
        )
        console.print(
            _("A smoke run is too small for verdicts: it shows that everything works.")
            if study.preset == "smoke"
            else _("Estimates with their 95% intervals over seeds; thresholds were set beforehand.")
        )
    for problem in study.problems:
        console.print(Text(f"{_('problem')}: {problem}", "red"), soft_wrap=True)
    if study.unfinished:
        console.print(Text(f"{_('not measured')}: {', '.join(study.unfinished)}", "yellow"))


def verdict(word: str, _: Translate) -> Text:
    """Return a verdict, or a law's outcome, in its colour."""
    return Text(_(word), COLOURS[word])


def print_effects(
    console: Console, effects: tuple[Effect, ...], _: Translate = str, *, notes: bool = True
) -> None:
    """Print the deciding effects, one a row: estimate, threshold, name and unit; say why one is left open."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=22)
    grid.add_column(no_wrap=True)
    grid.add_column()
    for effect in effects:
        if not effect.primary:
            continue
        what = Text(effect.name).append(f" ({effect.unit})", "dim")
        if notes and effect.note and effect.verdict == "inconclusive":
            what.append(f"\n{effect.note}", "dim italic")
        grid.add_row(Text(_estimate(effect, _), COLOURS[effect.verdict]), _rule(effect, _), what)
    if grid.rows:
        console.print(Padding(grid, (0, 0, 0, 2)))


def _rule(effect: Effect, _: Translate) -> Text:
    if effect.rule == "above":
        return Text(_(say("asked: > {threshold:g}", threshold=effect.threshold)), "dim")
    return Text(_(say("asked: within ±{threshold:g}", threshold=effect.threshold)), "dim")


def _estimate(effect: Effect, _: Translate) -> str:
    if math.isnan(effect.estimate):
        return _("no estimate")
    at_least = "≥ " if effect.at_least else ""
    return f"{at_least}{effect.estimate:.3g} [{effect.low:.3g}, {effect.high:.3g}]"
