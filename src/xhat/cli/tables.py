"""Results and explanations as the terminal shows them."""

import inspect
import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xhat.errors import unknown
from xhat.study.claims import CLAIMS
from xhat.study.laws import LAWS
from xhat.study.result import ClaimText, Effect, Study

COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


def print_study(console: Console, study: Study) -> None:
    """Print the laws' outcome, the claims' table, and what went wrong."""
    if study.laws:
        failed = [law.id for law in study.laws if not law.passed]
        state = Text("all hold", "green") if not failed else Text(f"fail: {', '.join(failed)}", "red")
        console.print(Text(f"\n{len(study.laws)} laws, float64: ").append(state))
    if study.claims:
        console.print(_claims(study))
    for problem in study.problems:
        console.print(Text(f"problem: {problem}", "red"), soft_wrap=True)
    if study.unfinished:
        console.print(Text(f"not measured: {', '.join(study.unfinished)}", "yellow"))


def _claims(study: Study) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    for name in ("claim", "verdict", "effect"):
        table.add_column(name, overflow="fold")
    for name in ("estimate [95% interval]", "threshold", "seeds"):
        table.add_column(name, justify="right", overflow="fold")
    for claim in study.claims:
        first = True
        for effect in claim.effects:
            if not effect.primary:
                continue
            table.add_row(
                claim.text.id if first else "",
                Text(claim.verdict, COLOURS[claim.verdict]) if first else "",
                Text(f"{effect.name} ({effect.unit})"),
                Text(_estimate(effect), COLOURS[effect.verdict]),
                f"> {effect.threshold:g}" if effect.rule == "above" else f"within ±{effect.threshold:g}",
                str(effect.seeds),
            )
            first = False
    return table


def _estimate(effect: Effect) -> str:
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
        console.print(Text(body))
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
    return title, textwrap.dedent(body).strip()
