"""Watch a few of the user's own training steps: how often statistics are updated, on what, and by what."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from xhat.doctor._split import samples_in
from xhat.errors import UsageError
from xhat.norms import batch_norms
from xhat.trees import tensors_in
from xhat.unchanged import probe_depth


@dataclass(frozen=True)
class Pass:
    """One training forward of a batch norm."""

    step: int  # optimizer steps done before it
    values: int  # values a channel
    samples: int  # of the input: its first axis
    fingerprint: float  # weighted sum of what the model was given: equal for equal inputs; NaN where unknown
    updated: bool  # whether running statistics changed in it
    recomputed: bool  # within a backward pass, as checkpointing does


@dataclass
class WatchedNorm:
    """What was seen of one batch norm."""

    statistics_moved: bool = False  # running mean or variance ended as other numbers
    frozen_at_start: bool = False  # in evaluation mode within a model in training mode
    trains_affine: bool = False  # γ or β wants a gradient; False where there are none
    has_affine: bool = True
    passes: list[Pass] = field(default_factory=list)
    evaluations: int = 0  # forwards in evaluation mode


@dataclass
class Watched:
    """What ``watch`` saw; complete once its block has ended.

    Attributes:
        norms: By full name.
        steps: Optimizer steps.
        backwards: Of each step, gradients that were accumulated before it: backward passes.
    """

    norms: dict[str, WatchedNorm]
    steps: int = 0
    backwards: list[int] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Watched({len(self.norms)} batch norms over {self.steps} optimizer steps)"

    def of_steps(self, name: str) -> list[list[Pass]]:
        """Return a norm's training forwards, by optimizer step; those behind the last step are left out."""
        grouped: list[list[Pass]] = [[] for _ in range(self.steps)]
        for each in self.norms[name].passes:
            if each.step < self.steps:
                grouped[each.step].append(each)
        return grouped

    def to_frame(self) -> pd.DataFrame:
        """Return one row a norm: forwards, updates, recomputed forwards a step, values a channel, moved, trained."""
        rows = []
        for name, norm in self.norms.items():
            steps = [step for step in self.of_steps(name) if step]
            rows.append(
                {
                    "norm": name,
                    "steps": len(steps),
                    "forwards": _median([len(step) for step in steps]),
                    "updates": _median([sum(p.updated for p in step) for step in steps]),
                    "recomputed": _median([sum(p.recomputed for p in step) for step in steps]),
                    "values": _median([p.values for p in norm.passes]),
                    "samples": _median([p.samples for p in norm.passes]),
                    "moved": norm.statistics_moved,
                    "trained": norm.trains_affine,
                }
            )
        columns = [
            "norm",
            "steps",
            "forwards",
            "updates",
            "recomputed",
            "values",
            "samples",
            "moved",
            "trained",
        ]
        return pd.DataFrame(rows, columns=columns)


def _median(values: list[int]) -> float:
    return float(median(values)) if values else 0.0


@contextmanager
def watch(model: nn.Module) -> Iterator[Watched]:
    """Watch the batch norms of a model over some of the user's own training steps.

    Inside the ``with`` block every training forward of a batch norm is noted, and which optimizer step it belongs
    to: a step is one of a ``torch.optim.Optimizer`` that owns a parameter of the model. Two or three steps are
    enough. Training goes on bit for bit as without; on the way out all hooks are removed.

    Example:
        ``with xhat.watch(model) as watched: train(model, few_batches)``, then
        ``xhat.diagnose(model, watched=watched)``.

    Yields:
        A ``Watched``: ``norms``, ``steps``, ``to_frame()``.

    Raises:
        UsageError: the model has no batch norm.
    """
    layers = batch_norms(model)
    if not layers:
        raise UsageError(f"{type(model).__name__} has no batch norm that could be watched")
    watching = _Watching(model, layers)
    try:
        watching.start()
        yield watching.seen
    finally:
        watching.stop()


class _Watching:
    def __init__(self, model: nn.Module, layers: dict[str, _BatchNorm]) -> None:
        self.model, self.layers, self.depth = model, layers, probe_depth()
        self.seen = Watched({name: _start_of(layer, model.training) for name, layer in layers.items()})
        self.before = {name: _copies(layer) for name, layer in layers.items()}
        # Identity and version of the buffers tell an update from none, without reading numbers from a device.
        self.state = {name: _version(layer) for name, layer in layers.items()}
        self.handles: list[RemovableHandle] = []
        self.accumulated: dict[int, int] = {}
        self.fingerprint = math.nan

    def start(self) -> None:
        self.handles.append(register_optimizer_step_post_hook(self._stepped))
        self.handles.append(self.model.register_forward_pre_hook(self._given, with_kwargs=True))
        for name, layer in self.layers.items():
            self.handles.append(layer.register_forward_hook(self._hook(name), with_kwargs=True))
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                self.handles.append(parameter.register_post_accumulate_grad_hook(self._accumulated))  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        for handle in self.handles:
            handle.remove()
        for name, layer in self.layers.items():
            now, then = _copies(layer), self.before[name]
            self.seen.norms[name].statistics_moved = any(
                not torch.equal(a, b) for a, b in zip(now, then, strict=False)
            )

    def _hook(self, name: str) -> Any:
        seen = self.seen.norms[name]

        def after(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
            state = _version(layer)
            updated, self.state[name] = state != self.state[name], state
            if probe_depth() > self.depth:
                return
            x = args[0] if args else next(iter(kwargs.values()), None)
            if not layer.training or not isinstance(x, Tensor) or x.dim() < 2:
                seen.evaluations += 1
                return
            seen.trains_affine = seen.trains_affine or _trains(layer)
            seen.passes.append(
                Pass(
                    self.seen.steps,
                    x.numel() // x.shape[1],
                    samples_in(x) or 0,
                    self.fingerprint,
                    updated,
                    torch._C._current_graph_task_id() != -1,
                )
            )

        return after

    def _given(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if probe_depth() <= self.depth:
            self.fingerprint = sum(map(_fingerprint, tensors_in((args, kwargs))), 0.0)

    def _accumulated(self, parameter: Tensor) -> None:
        self.accumulated[id(parameter)] = self.accumulated.get(id(parameter), 0) + 1

    def _stepped(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        own = set(map(id, self.model.parameters()))
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            self.seen.steps += 1
            # A parameter that is used twice gets one gradient a backward pass all the same.
            self.seen.backwards.append(max(self.accumulated.values(), default=0))
            self.accumulated.clear()


def _start_of(layer: _BatchNorm, training: bool) -> WatchedNorm:
    return WatchedNorm(
        frozen_at_start=training and not layer.training,
        trains_affine=_trains(layer),
        has_affine=layer.weight is not None,
    )


def _fingerprint(tensor: Tensor) -> float:
    """Return a sum with weights that differ by place, so that turned or sorted values have another one."""
    values = tensor.detach().abs() if tensor.is_complex() else tensor.detach()
    values = values.reshape(-1).float()
    return float(values @ torch.linspace(1, 2, len(values), device=values.device))


def _trains(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def _copies(layer: nn.Module) -> list[Tensor]:
    buffers = (getattr(layer, name, None) for name in ("running_mean", "running_var"))
    return [buffer.detach().clone() for buffer in buffers if isinstance(buffer, Tensor)]


def _version(layer: nn.Module) -> tuple[float, ...]:
    """Return what changes with an update; torch's kernel moves the statistics without raising their version."""
    found: list[float] = []
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        buffer = getattr(layer, name, None)
        if isinstance(buffer, Tensor):
            found += (id(buffer), buffer._version)
    if not isinstance(getattr(layer, "num_batches_tracked", None), Tensor):
        found += (float(buffer.sum()) for buffer in _copies(layer))
    return tuple(found)
