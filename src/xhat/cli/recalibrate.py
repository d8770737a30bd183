"""``xhat recalibrate``: new statistics for a user's network, written as safetensors."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from xhat.cli._shared import INTERRUPTED, Lang, Language, check_file, console, errors
from xhat.errors import UsageError

if TYPE_CHECKING:
    from xhat.lang import Translate
    from xhat.surgery import Recalibration


def recalibrate(
    model: Annotated[str, typer.Argument(help="Your network as module:callable; called without arguments.")],
    data: Annotated[
        str,
        typer.Option(
            help="Your batches as module:callable: a DataLoader, a list of batches, a Dataset (batches of 64), "
            "or a pair (train, test), of which train is taken."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write: the whole state_dict.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights to load before: .safetensors, or what torch.save wrote.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Batches to take at most.")] = None,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="Each layer behind recalibrated ones, as in evaluation; as many passes as layers in a chain.",
        ),
    ] = False,
    lang: Lang = Language.en,
) -> None:
    """Measure your network's batch norm statistics on batches, exactly, and write its weights with them."""
    from xhat.cli._users import load_batches, load_model
    from xhat.cli._weights import save_weights
    from xhat.lang import say, translator
    from xhat.surgery import recalibrate_

    _ = translator(lang)
    logging.getLogger("xhat.surgery").addHandler(logging.NullHandler())  # its warnings are said below
    if out.suffix != ".safetensors":
        raise UsageError(
            f"--out is {out}; the file is written as safetensors: name it {out.stem}.safetensors"
        )
    check_file(out, "--out")
    try:
        network = load_model(model, weights, _)
        batches = load_batches(data)
        result = recalibrate_(network, batches, limit=limit, sequential=sequential, progress=True)
        save_weights(network, out)
    except KeyboardInterrupt:
        errors.print("\n" + escape(_("Stopped. Nothing was written.")), soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    _print(result, _)
    written = say("Written: {path}", path=str(out.resolve()))
    console.print("\n" + escape(_(written)), soft_wrap=True, highlight=False)


def _print(result: "Recalibration", _: "Translate") -> None:
    from xhat.lang import say

    head = say(
        "Recalibrated layers: {layers}; batches: {batches}; passes: {passes}",
        layers=len(result.layers),
        batches=result.batches,
        passes=result.passes,
    )
    console.print(escape(_(head)), soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(_("layer"))
    for title in (_("values a channel"), _("mean moved by, in old σ"), _("variance times")):
        table.add_column(title, justify="right")
    for name, moved in result.moved.items():
        table.add_row(
            escape(name or _("(model)")),
            f"{moved.values}",
            f"{moved.shift_median:.2g} ({_(say('at most {most:.2g}', most=moved.shift_max))})",
            f"{moved.ratio_median:.2g} ({moved.ratio_min:.2g}–{moved.ratio_max:.2g})",
        )
    console.print(table, highlight=False)
    if result.skipped:
        words = say(
            "Batches left out: {count}, where a layer would have had a single value a channel to normalise.",
            count=result.skipped,
        )
        console.print(escape(_(words)), soft_wrap=True, highlight=False)
    for name, why in result.kept.items():
        kept = say("Kept as it was: {layer}, {why}", layer=name or _("(model)"), why=why)
        console.print(escape(_(kept)), soft_wrap=True, highlight=False)
