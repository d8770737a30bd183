"""``xhat fold``: a user's network with its batch norms folded, written as an exported program."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from xhat.cli._shared import INTERRUPTED, Lang, Language, check_file, console, errors
from xhat.errors import ModelError, UsageError
from xhat.files import replacing

if TYPE_CHECKING:
    from torch import nn

    from xhat.lang import Translate
    from xhat.surgery import Surgery


def fold(
    model: Annotated[str, typer.Argument(help="Your network as module:callable; called without arguments.")],
    data: Annotated[
        str,
        typer.Option(
            help="Your batches as module:callable: a DataLoader, a list of batches, a Dataset, or a pair (train, "
            "test). The first batch is the example input; the batch size stays free."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The .pt2 file to write, for torch.export.load. Without it: only the report."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to load before: .safetensors, or what torch.save wrote.")
    ] = None,
    lang: Lang = Language.en,
) -> None:
    """Fold your network's batch norms into the layers beside them, checked, and write it for serving."""
    from xhat.batches import arguments_of, each_batch
    from xhat.cli._users import load_batches, load_model
    from xhat.lang import say, translator
    from xhat.surgery import fold as fold_

    _ = translator(lang)
    if out is not None and out.suffix != ".pt2":
        raise UsageError(f"--out is {out}; the file is an exported program: name it {out.stem}.pt2")
    if out is not None:
        check_file(out, "--out")
    try:
        network = load_model(model, weights, _)
        args, kwargs = arguments_of(next(each_batch(load_batches(data))))
        result = fold_(network, *args, kwargs=kwargs)
        _print(result, _)
        if out is not None:
            program = _exported(result.model, args, kwargs)
            with replacing(out) as part:
                part.write_bytes(program)
            written = say("Written: {path}", path=str(out.resolve()))
            console.print("\n" + escape(_(written)), soft_wrap=True, highlight=False)
    except KeyboardInterrupt:
        errors.print("\n" + escape(_("Stopped. Nothing was written.")), soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED) from None


def _exported(model: "nn.Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    import torch
    from torch import Tensor
    from torch.export import Dim
    from torch.utils import _pytree

    def free(leaf: object) -> Any:
        return {0: Dim.AUTO} if isinstance(leaf, Tensor) and leaf.dim() else None

    shapes = (*_pytree.tree_map(free, args), *_pytree.tree_map(free, kwargs).values())
    try:
        program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:
        raise ModelError(
            f"the network was folded, but torch.export cannot write it: {type(error).__name__}: {error}. Fold it in "
            "Python with xhat.fold(model, x).model, and keep the module itself."
        ) from error
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _print(result: "Surgery", _: "Translate") -> None:
    from xhat.lang import say

    head = say(
        "Folded batch norms: {done}; left as they are: {left}; outputs differ by {error:.2g} at most",
        done=len(result.changes),
        left=len(result.refusals),
        error=result.max_abs_error or 0.0,
    )
    console.print(escape(_(head)), soft_wrap=True, highlight=False)
    if not result.refusals:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(_("left as it is"))
    table.add_column(_("why"))
    for refusal in result.refusals:
        table.add_row(escape(refusal.module or _("(model)")), escape(_(refusal.reason)))
    console.print(table, highlight=False)
