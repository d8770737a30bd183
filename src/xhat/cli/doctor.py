"""``xhat doctor``: what is wrong with the batch norms of a user's network, and the repair."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from xhat.cli._shared import FAILED, INTERRUPTED, Lang, Language, check_file, console, errors
from xhat.errors import UsageError
from xhat.files import replacing

if TYPE_CHECKING:
    from torch import nn

    from xhat.doctor import Diagnosis, Repair
    from xhat.lang import Translate
    from xhat.report._diagnosis import Group

COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}
SHOWN = 6  # modules of one rule that the terminal lists
PAGE = Path("xhat-doctor.html")


class Format(StrEnum):
    """How a diagnosis is written."""

    text = "text"
    json = "json"
    sarif = "sarif"
    html = "html"


class FailOn(StrEnum):
    """From which severity on the exit code is 1."""

    info = "info"
    warning = "warning"
    error = "error"
    never = "never"


def doctor(
    model: Annotated[str, typer.Argument(help="Your network as module:callable; called without arguments.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights to load before: .safetensors, or what torch.save wrote.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Your batches as module:callable: a DataLoader, a list of batches, a Dataset (batches of 64), or a "
            "pair (train, test), of which train is taken. Without it, weights and settings alone are looked at."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Batches to look at; --fix recalibrates on all.")] = 16,
    format: Annotated[Format, typer.Option(help="How the diagnosis is written.")] = Format.text,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file for json, sarif or html. Default: standard output; html: xhat-doctor.html."
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            help="The .safetensors file for the state_dict with repaired statistics and parameters. What is "
            "the code's to change is shown."
        ),
    ] = None,
    fail_on: Annotated[
        FailOn,
        typer.Option(
            help="Exit with 1 if a finding is as severe as this, or worse; with --fix, one that is left."
        ),
    ] = FailOn.warning,
    lang: Lang = Language.en,
) -> None:
    """Find what is wrong with your network's batch norms, say why, and mend what can be mended."""
    from xhat.batches import can_repeat
    from xhat.cli._users import load_batches, load_model
    from xhat.doctor import diagnose
    from xhat.lang import translator

    _ = translator(lang)
    if fix is not None and fix.suffix != ".safetensors":
        raise UsageError(
            f"--fix is {fix}; the file is written as safetensors: name it {fix.stem}.safetensors"
        )
    for path, option in ((out, "--out"), (fix, "--fix")):
        if path is not None:
            check_file(path, option)
    if out is not None and format is Format.text:
        raise UsageError("--out is for --format json, sarif or html; text goes to standard output")
    try:
        network = load_model(model, weights, _)
        batches = load_batches(data) if data is not None else None
        if batches is not None and fix is not None and not can_repeat(batches):
            batches = list(batches)  # looked at, and gone through again
        found = diagnose(network, batches, limit=limit, progress=True)
        _write(network, found, model, format, out, lang, _)
        if fix is not None:
            found = _fix(network, found, batches, fix, _).after
    except KeyboardInterrupt:
        errors.print("\n" + escape(_("Stopped.")), soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    if fail_on is not FailOn.never and found.at_least(fail_on.value):
        raise typer.Exit(FAILED)


def _write(
    network: "nn.Module",
    found: "Diagnosis",
    name: str,
    format: Format,
    out: Path | None,
    lang: str,
    _: "Translate",
) -> None:
    from xhat.report.doctor_page import write_doctor_page
    from xhat.report.machine import to_json, to_sarif

    if format is Format.text:
        print_diagnosis(found, _)
    elif format is Format.html:
        page = write_doctor_page(network, found, out or PAGE, name=name, lang=lang)
        _say_path(page, _)
    else:
        made = to_json(found, model=name) if format is Format.json else to_sarif(found, model=name)
        _write_text(json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False), out, _)


def _write_text(text: str, out: Path | None, _: "Translate") -> None:
    if out is None:
        typer.echo(text)  # not rich: it would break lines
        return
    with replacing(out) as part:
        part.write_text(text + "\n", encoding="utf-8", newline="\n")
    _say_path(out, _)


def _say_path(path: Path, _: "Translate") -> None:
    from xhat.lang import say

    errors.print(escape(_(say("Written: {path}", path=str(path.resolve())))), soft_wrap=True, highlight=False)


def print_diagnosis(found: "Diagnosis", _: "Translate") -> None:
    """Print findings by rule, the worst first, what was not looked at, and the sum."""
    from xhat.lang import say
    from xhat.report._diagnosis import counts, groups, skipped_by_reason

    for group in groups(found.findings):
        _print_group(group, _)
    for reason, codes in skipped_by_reason(found).items():
        words = say("Not looked at ({reason}): {codes}", reason=reason, codes=", ".join(codes))
        console.print(Text(_(words), "dim"))
    for note in found.notes:
        console.print(Text(_(note), "dim"))
    told = [f"{count} {_(severity)}" for severity, count in counts(found).items() if count]
    head = say(
        "{norms} batch norms, {batches} batches: {sum}",
        norms=found.batch_norms,
        batches=found.batches,
        sum=", ".join(told) or _("no findings"),
    )
    console.print(Text(_(head), "bold"))
    if found.findings:
        code = found.findings[0].code
        console.print(Text(_(say("`xhat explain {code}` says more.", code=code))))


def _print_group(group: "Group", _: "Translate") -> None:
    from xhat.doctor import RULES
    from xhat.lang import say

    colour = COLOURS[group.severity.value]
    head = Text(f"{_(group.severity.value)} {group.code}  ", f"bold {colour}").append(_(group.title), "bold")
    console.print(head)
    for finding in group.findings[:SHOWN]:
        line = Text(f"{finding.module}  " if finding.module else "", "bold").append(
            _(finding.message), "none"
        )
        console.print(Padding(line, (0, 0, 0, 2)))
    if len(group.findings) > SHOWN:
        more = say("and {count} more", count=len(group.findings) - SHOWN)
        console.print(Padding(Text(_(more), "dim"), (0, 0, 0, 2)))
    remedy = Text("→ ", colour).append(_(group.remedy), "none")
    if group.repairable:
        in_state = RULES[group.code].repairs == "state"
        how = _("--fix or xhat.repair does it.") if in_state else _("In Python, xhat.repair does it.")
        remedy.append(f" {how}", "dim")
    console.print(Padding(remedy, (0, 0, 1, 2)))


def _fix(network: "nn.Module", found: "Diagnosis", batches: Any, path: Path, _: "Translate") -> "Repair":
    """Repair what a state_dict holds, write it, and say what was done and what stays."""
    from xhat.cli._weights import save_weights
    from xhat.doctor import RULES, repair
    from xhat.lang import say

    kept = [code for code, rule in RULES.items() if rule.repair is not None and rule.repairs == "state"]
    done = repair(network, found, codes=kept, batches=batches, progress=True)
    for change in done.changes:
        errors.print(Text(f"{change.module or _('(model)')}: {_(change.what)}", "green"), soft_wrap=True)
    code_to_change = {f.code: f for f in done.after.findings if f.code not in kept and f.severity.rank > 0}
    for finding in code_to_change.values():
        words = say("In the code ({code}): {remedy}", code=finding.code, remedy=finding.remedy)
        errors.print(Text(_(words), "yellow"), soft_wrap=True)
    for refusal in done.refusals:
        if any(f.module == refusal.module and f.code in kept for f in found.findings):
            errors.print(
                Text(f"{refusal.module or _('(model)')}: {_(refusal.reason)}", "dim"), soft_wrap=True
            )
    before, after = done.counts
    words = say("Findings before: {before}, after: {after}", before=before, after=after)
    errors.print(Text(_(words), "bold"))
    if done.changes:
        save_weights(done.model, path)
        _say_path(path, _)
    else:
        errors.print(
            escape(_("Nothing to write: no repair of statistics or parameters applied.")), highlight=False
        )
    return done
