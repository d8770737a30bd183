"""Results and explanations as the terminal shows them."""

import inspect
import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xhat.errors import unknown
from xhat.study.claims import CLAIMS
from xhat.study.laws import LAWS
from xhat.study.result import ClaimText, Effect, Study

COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


def print_study(console: Console, study: Study) -> None:
    """Print the laws' outcome, each claim with its verdict and deciding effects, and what went wrong."""
    if study.laws:
        failed = [law.id for law in study.laws if not law.passed]
        state = Text("all hold", "green") if not failed else Text(f"fail: {', '.join(failed)}", "red")
        laws = "1 law" if len(study.laws) == 1 else f"{len(study.laws)} laws"
        console.print(Text(f"\n{laws}, float64: ").append(state))
    for claim in study.claims:
        console.print(Text(f"\n{claim.text.id}  ", "bold").append(claim.verdict, COLOURS[claim.verdict]))
        for effect in claim.effects:
            if effect.primary:
                _print_effect(console, effect)
    if study.preset == "smoke" and study.claims:
        console.print("\n  A smoke run is too small for verdicts: it shows that everything works.")
    elif study.claims:
        console.print("\n  Estimates with their 95% intervals over seeds; thresholds were set beforehand.")
    for problem in study.problems:
        console.print(Text(f"problem: {problem}", "red"), soft_wrap=True)
    if study.unfinished:
        console.print(Text(f"not measured: {', '.join(study.unfinished)}", "yellow"))


def _print_effect(console: Console, effect: Effect) -> None:
    rule = f"> {effect.threshold:g}" if effect.rule == "above" else f"within ±{effect.threshold:g}"
    estimate = Text(_estimate(effect), COLOURS[effect.verdict])
    console.print(Text(f"  {effect.name}"))
    console.print(
        Text("    ").append(estimate).append(f"  {effect.unit}; asked {rule}; {effect.seeds} pairs of seeds")
    )
    if effect.note:
        console.print(Text(f"    {effect.note}", "dim"))


def _estimate(effect: Effect) -> str:
    if math.isnan(effect.estimate):
        return "no estimate"
    at_least = "≥ " if effect.at_least else ""
    return f"{at_least}{effect.estimate:.3g} [{effect.low:.3g}, {effect.high:.3g}]"


def print_catalogue(console: Console) -> None:
    """Print the names of all claims and laws."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for claim in CLAIMS.values():
        table.add_row("claim", claim.text.id, claim.text.title)
    for law, check in LAWS.items():
        table.add_row("law", law, _module_words(check)[0])
    console.print(table)
    console.print("\n`xhat explain NAME` says more.", highlight=False)


def print_explanation(console: Console, name: str) -> None:
    """Print what a claim or a law is, how it is measured, and its source.

    Raises:
        UsageError: there is no claim or law of that name.
    """
    if name in CLAIMS:
        _print_claim(console, CLAIMS[name].text)
    elif name in LAWS:
        title, body = _module_words(LAWS[name])
        console.print(Text(title, "bold"))
        console.print(Text(f"\n{body}"))
        console.print(Text("\nCommand", "bold"))
        console.print(Text(f"xhat study --claims {name}"))
    else:
        raise unknown("claim or law", name, [*CLAIMS, *LAWS])


def _print_claim(console: Console, text: ClaimText) -> None:
    console.print(Text(text.title, "bold"))
    parts = {
        "The notes say": text.says,
        "Measured here": text.measured,
        "Verdict": text.threshold,
        "Does not show": text.does_not_show,
        "Source": text.source,
        "Expected there": text.expected,
        "Changed after a first run": text.changes or "Nothing.",
        "Cost on 2 cores": text.cost,
        "Command": f"xhat study --claims {text.id}",
    }
    for head, body in parts.items():
        console.print(Text(f"\n{head}", "bold"))
        console.print(Text(body))


def _module_words(check: object) -> tuple[str, str]:
    """Return first line and rest of the docstring of the module that a law's check stands in."""
    module = inspect.getmodule(check)
    words = inspect.cleandoc((module.__doc__ if module else "") or "")
    title, _, body = words.partition("\n")
    title = title.removeprefix("Law: ").rstrip(".")
    paragraphs = (" ".join(part.split()) for part in body.replace("\nSource:", "\n\nSource:").split("\n\n"))
    if title[:2].isascii():  # γ and dγ keep their case
        title = title[0].upper() + title[1:]
    return title, "\n\n".join(filter(None, paragraphs))
