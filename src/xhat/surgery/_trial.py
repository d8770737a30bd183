"""Try a change of a model on a copy whose batch norms have random parameters and statistics."""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from xhat.eager import eagerly
from xhat.surgery._duplicate import duplicate
from xhat.surgery._random import randomised_norms, values_like
from xhat.trees import cloned, map_tensors, tensors_in, to_dtype

Part = TypeVar("Part")
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
SEED = 0x5EED

# A part that is wrong changes outputs by a per cent and more; rounding in float64 by 1e-10 and less, in a model
# that computes some of it in float32 by 1e-6.
TOLERANCE = 1e-5
SAMPLES = 4096  # values of a watched module's output that are compared, or one a channel


@dataclass(frozen=True)
class Run:
    """One run of the model as it was; the first is on the arguments given, in evaluation mode."""

    arguments: Arguments
    training: bool
    outputs: list[Tensor]


@dataclass(frozen=True)
class Setting:
    """What a change is tried on."""

    model: nn.Module
    runs: tuple[Run, ...]
    watch: Collection[str]  # full names of modules
    seen: list[Tensor]  # some of what they returned in the first run
    tolerance: float


@dataclass(frozen=True)
class Failed(Generic[Part]):
    """A part of a change that does not keep the outputs."""

    part: Part
    raised: str | None  # what the model or the change raised; None where the outputs were others


class Trial(Generic[Part]):
    """Finds which parts of a change keep a model's outputs.

    On a fresh batch norm (μ = 0, σ² = 1) a wrong change can be invisible, so γ, β and the statistics are made
    random first; near the statistics of what arrives, so that deep networks neither die out nor blow up. The
    trial is made in float64 where the model runs in it, on the inputs given and on random ones like them.

    Args:
        model: The model; it is copied.
        inputs: Its example arguments.
        apply: Applies parts of the change to a model, in place.
        training: Whether outputs in training mode must stay as well.
        watch: Full names of modules whose outputs must stay too: the model's own may hang on some of them only
            a little, or not at all on these inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Arguments,
        apply: Callable[[nn.Module, Sequence[Part]], object],
        *,
        training: bool = False,
        watch: Collection[str] = (),
    ) -> None:
        self._setting = _setting(model, inputs, training, watch)
        self._apply = apply

    def split(self, parts: Sequence[Part]) -> tuple[list[Part], list[Failed[Part]]]:
        """Return the parts that keep the outputs, and those that do not."""
        good: list[Part] = []
        bad: list[Failed[Part]] = []
        self._split(list(parts), good, bad)
        return good, bad

    def _split(self, parts: list[Part], good: list[Part], bad: list[Failed[Part]]) -> None:
        if not parts:
            return
        keeps, raised = self._try([*good, *parts])
        if keeps:
            good += parts
        elif len(parts) == 1:
            bad.append(Failed(parts[0], raised))
        else:
            half = len(parts) // 2
            self._split(parts[:half], good, bad)
            self._split(parts[half:], good, bad)

    def _try(self, parts: Sequence[Part]) -> tuple[bool, str | None]:
        """Return whether the outputs stay as they are, within rounding, with the parts applied, and what was raised."""
        setting = self._setting
        model = duplicate(setting.model)
        try:
            self._apply(model, parts)
            for done in setting.runs:
                outputs = run(model, done.arguments, training=done.training)
                if difference(done.outputs, outputs) > setting.tolerance:
                    return False, None
            seen = look(model, setting.runs[0].arguments, setting.watch)
            return difference(setting.seen, seen) <= setting.tolerance, None
        except (
            Exception
        ) as error:  # the change broke the user's code, as where it reads an attribute that is gone
            return False, f"{type(error).__name__}: {error}"


def run(model: nn.Module, arguments: Arguments, *, training: bool = False) -> list[Tensor]:
    """Return the tensors of a model's output on clones of its arguments, with seeded random numbers.

    In training mode a copy is run, since batch norms update their statistics.
    """
    args, kwargs = cloned(arguments)
    if training:
        model = duplicate(model).train()
    with _seeded(), torch.no_grad():
        return [tensor.detach() for tensor in tensors_in(model(*args, **kwargs))]


def look(model: nn.Module, arguments: Arguments, names: Collection[str]) -> list[Tensor]:
    """Return some of what modules of the model return, in the order of their calls.

    Apart from ``run``, since hooks make some modules take another path, and the compiler compile anew.
    """
    seen: list[Tensor] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        seen.extend(_some(tensor) for tensor in tensors_in(output))

    handles = [model.get_submodule(name).register_forward_hook(note) for name in names]
    try:
        with eagerly():
            run(model, arguments)
        return seen
    finally:
        for handle in handles:
            handle.remove()


def _some(tensor: Tensor) -> Tensor:
    """Return a copy of some values, of all channels: a module's whole output would be too much to hold."""
    if tensor.dim() < 2 or tensor.numel() <= SAMPLES:
        return tensor.detach().clone()
    by_channel = tensor.detach().movedim(1, 0).flatten(1)
    step = max(1, tensor.numel() // SAMPLES)
    return by_channel[:, ::step].clone()


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed torch, numpy and Python while the block runs."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's model may draw from it
    with torch.random.fork_rng():
        # torch.manual_seed would note the stack for devices that are not there
        torch.default_generator.manual_seed(SEED)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(SEED)
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002


def difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest difference over all outputs, in units of each output's root mean square."""
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        if not (old.is_floating_point() or old.is_complex()) or not old.numel():
            continue  # classes and boxes chosen by a threshold may jump by rounding alone
        finite = torch.isfinite(old)
        if not torch.equal(finite, torch.isfinite(new)):
            return float("inf")
        size = float(old[finite].abs().square().mean().sqrt()) if bool(finite.any()) else 0.0
        gap = float((new[finite] - old[finite]).abs().max()) if bool(finite.any()) else 0.0
        worst = max(worst, gap / size if size else gap)
    return worst


def max_abs_error(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest difference over all floating outputs; infinite where shapes differ, or only one is finite."""
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")  # as of boxes that a threshold chooses
    gaps = [
        float(
            torch.where((new == old) | (new.isnan() & old.isnan()), 0, new - old)
            .abs()
            .nan_to_num(torch.inf)
            .max()
        )
        for old, new in zip(before, after, strict=True)
        if old.is_floating_point() and old.numel()
    ]
    return max(gaps, default=0.0)


def _setting(model: nn.Module, inputs: Arguments, training: bool, watch: Collection[str]) -> Setting:
    """Return the hardest setting that the model runs in."""
    failed: Exception | None = None
    for dtype in (torch.float64, None):
        for randomise in (True, False):
            try:
                return _try(model, inputs, dtype, randomise, training, watch)
            except Exception as error:  # float32 inside the model's code; control flow that hangs on values
                failed = error
    assert failed is not None
    raise failed


def _try(
    model: nn.Module,
    inputs: Arguments,
    dtype: torch.dtype | None,
    randomise: bool,
    training: bool,
    watch: Collection[str],
) -> Setting:
    model = duplicate(model).eval()
    if dtype is not None:
        model.to(dtype)
        inputs = to_dtype(inputs, dtype)
    generator = torch.Generator().manual_seed(SEED)
    if randomise:
        with randomised_norms(model, generator):
            run(model, inputs)
    runs = [Run(inputs, False, run(model, inputs))]
    with suppress(Exception):  # a model may accept only some values
        like = map_tensors(inputs, lambda tensor: values_like(tensor, generator))
        runs.append(Run(like, False, run(model, like)))
    if training:
        given = [one.arguments for one in runs]
        runs += [Run(one, True, run(model, one, training=True)) for one in given]
    seen = look(model, inputs, watch)
    tolerance = TOLERANCE if dtype is not None else _rounding(model, runs, seen, watch)
    return Setting(model, tuple(runs), watch, seen, tolerance)


def _rounding(model: nn.Module, runs: Sequence[Run], seen: list[Tensor], watch: Collection[str]) -> float:
    """Return what rounding may do to the outputs: 30 times what changes of the weights by one rounding do."""
    shaken = duplicate(model)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in shaken.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.mul_(1 + noise * torch.finfo(parameter.dtype).eps)
    moved = [difference(one.outputs, run(shaken, one.arguments, training=one.training)) for one in runs]
    moved.append(difference(seen, look(shaken, runs[0].arguments, watch)))
    return max(TOLERANCE, 30 * max(moved))
