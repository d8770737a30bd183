"""What can be measured: the list of all claims and laws, and what one of them is."""

import inspect

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xhat.cli.doctor import COLOURS
from xhat.cli.tables import print_effects, verdict
from xhat.doctor import RULES, SEVERITIES, Rule
from xhat.errors import unknown
from xhat.lang import Translate, say
from xhat.report import shipped, translated
from xhat.report._words import moment
from xhat.study.claims import CLAIMS
from xhat.study.laws import LAWS
from xhat.study.result import ClaimText, Study


def print_catalogue(console: Console, _: Translate = str, *, rules: bool = False) -> None:
    """Print all claims and laws with their titles, and the shipped full run's verdicts if there is one.

    Args:
        console: Where to.
        rules: Whether the doctor's rules are listed too.
    """
    full = shipped()
    found = _verdicts(full) if full else {}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(full), header_style="dim")
    table.add_column("")
    table.add_column(_("name"), no_wrap=True)
    table.add_column(_("what it says"), overflow="fold")
    if full:
        table.add_column(_("full run"), no_wrap=True)
    names = {name: (_("claim"), _(claim.text.title)) for name, claim in CLAIMS.items()}
    names |= {name: (_("law"), _(_module_words(check)[0])) for name, check in LAWS.items()}
    if rules:
        names |= {code: (_("rule"), _(rule.page[0])) for code, rule in RULES.items()}
    for name, (kind, title) in names.items():
        state = verdict(found[name], _) if name in found else Text("–")
        table.add_row(Text(kind, "dim"), name, title, *([state] if full else []))
    console.print(table)
    if full:
        console.print(Text("\n" + _about(full, _), "dim"))
    console.print(
        "\n"
        + _(
            "`xhat explain NAME` says more, `xhat study --claims NAME` measures it; rules are `xhat doctor`'s."
        ),
        highlight=False,
    )


def print_explanation(console: Console, name: str, _: Translate = str) -> None:
    """Print what a claim, a law or a rule is, its source, and what the shipped full run found of it.

    Raises:
        UsageError: there is no claim, law or rule of that name.
    """
    name = name.upper() if name.upper() in RULES else name
    if name in CLAIMS:
        _print_claim(console, translated(CLAIMS[name].text, _), _)
    elif name in LAWS:
        title, *paragraphs = _module_words(LAWS[name])
        console.print(Text(_(title), "bold"))
        for paragraph in paragraphs:
            console.print(Text(f"\n{_(paragraph)}"))
    elif name in RULES:
        _print_rule(console, RULES[name], _)
    else:
        raise unknown("claim, law or rule", name, [*CLAIMS, *LAWS, *RULES])
    if name in RULES:
        return
    full = shipped()
    if full and name in (found := _verdicts(full)):
        console.print(Text(f"\n{_('Full run')}  ", "bold").append(verdict(found[name], _)))
        for claim in full.claims:
            if claim.text.id == name:
                print_effects(console, translated(claim.effects, _), _)
        console.print(Text(_about(full, _), "dim"))
    console.print(Text(f"\n{_('Command')}", "bold"))
    console.print(Text(f"xhat study --claims {name}"))


def _print_rule(console: Console, rule: Rule, _: Translate) -> None:
    title, *paragraphs = rule.page
    console.print(Text(f"{rule.code} {rule.name}  ", "dim").append(_(title), "bold"))
    for severity, means in SEVERITIES[rule.code].items():
        console.print(Text(f"{_(severity.value)}: ", COLOURS[severity.value]).append(_(means), "none"))
    for paragraph in paragraphs:
        code = paragraph.startswith("    ")
        console.print(Text("\n" + (paragraph if code else _(paragraph))))


def _print_claim(console: Console, text: ClaimText, _: Translate) -> None:
    console.print(Text(text.title, "bold"))
    parts = {
        _("The notes say"): text.says,
        _("Measured here"): text.measured,
        _("Verdict"): text.threshold,
        _("Does not show"): text.does_not_show,
        _("Source"): text.source,
        _("Expected there"): text.expected,
        _("Changed after a first run"): text.changes or _("Nothing."),
        _("Cost on 2 cores"): text.cost,
    }
    for head, body in parts.items():
        console.print(Text(f"\n{head}", "bold"))
        console.print(Text(body))


def _verdicts(study: Study) -> dict[str, str]:
    laws = {law.id: "holds" if law.passed else "fails" for law in study.laws}
    return {claim.text.id: claim.verdict for claim in study.claims} | laws


def _about(full: Study, _: Translate) -> str:
    where = full.environment
    words = say(
        "The full run is shipped with xhat: xhat's own networks and data, started {when}, commit {commit}, "
        "{processor}.",
        when=moment(full.when),
        commit=where.commit or "–",
        processor=where.processor or "–",
    )
    return _(words)


def _module_words(check: object) -> list[str]:
    """Return first line and paragraphs of the docstring of the module that a law's check stands in."""
    module = inspect.getmodule(check)
    words = inspect.cleandoc((module.__doc__ if module else "") or "")
    title, _, body = words.partition("\n")
    title = title.removeprefix("Law: ").rstrip(".")
    paragraphs = (" ".join(part.split()) for part in body.replace("\nSource:", "\n\nSource:").split("\n\n"))
    if title[:2].isascii():  # γ and dγ keep their case
        title = title[0].upper() + title[1:]
    return [title, *filter(None, paragraphs)]
