"""Run a model with its batch norms normalising by chosen statistics; always inside ``unchanged``."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from xhat.batches import Forward, run_batch
from xhat.doctor._outputs import keep
from xhat.doctor._seen import Collected
from xhat.doctor._split import samples_in
from xhat.moments import Moments
from xhat.norms import has_torch_forward, is_batch_norm
from xhat.trees import tensors_in

# Modules whose only difference between the modes is noise.
_NOISE = (_DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


@dataclass
class Passes:
    """A model whose batch norms can be told what to normalise with."""

    model: nn.Module
    norms: Mapping[str, _BatchNorm]
    forward: Forward | None
    frozen: frozenset[str]  # norms that keep their running statistics in training
    advance: Callable[[int], None] = lambda number: None  # called with ``number`` after each batch, for a bar
    number: int = field(default=0, init=False)  # of the pass over all batches, from 1; 0 in others
    _plain: frozenset[str] = field(init=False)  # norms that compute what torch's do

    def __post_init__(self) -> None:
        self._plain = frozenset(name for name, norm in self.norms.items() if has_torch_forward(norm))

    def outputs(self, batches: Iterable[Any], *, first: int = 0) -> list[list[Tensor]]:
        """Return what is kept of the outputs on each batch."""
        return [self._output(batch, place) for place, batch in enumerate(batches, first)]

    def _output(self, batch: Any, place: int) -> list[Tensor]:
        output = run_batch(self.model, batch, self.forward, place=place)
        if self.number:
            self.advance(self.number)
        samples = samples_in(batch) or next((len(t) for t in tensors_in(output) if t.dim()), 0)
        return keep(output, samples)

    def evaluation(self) -> None:
        """Everything as in evaluation mode, with the running statistics, whatever ``train`` and ``eval`` do."""
        self._reset(training=False)

    def counted(self, batches: Sequence[Any]) -> tuple[list[list[Tensor]], dict[str, list[int]]]:
        """Run in evaluation mode; return outputs, and each norm's fewest values a channel in each batch."""
        self.evaluation()
        counts: dict[str, list[int]] = {name: [] for name in self.norms}
        handles = [
            norm.register_forward_pre_hook(_counter(counts[name]), with_kwargs=True)
            for name, norm in self.norms.items()
        ]
        outputs = []
        try:
            for place, batch in enumerate(batches):
                for seen in counts.values():
                    seen.append(0)
                outputs.append(self._output(batch, place))
        finally:
            for handle in handles:
                handle.remove()
        return outputs, counts

    def batch_statistics(
        self, batches: Iterable[Any], collected: Mapping[str, Collected] | None = None
    ) -> Any:
        """Normalise each batch by its own statistics, all else as in evaluation; return the outputs.

        Dropout is off, and frozen norms keep their running statistics. Where ``collected`` is given, it takes
        in what each norm sees.
        """
        self._reset(training=False)
        collected = collected or {}
        size = [0]
        handles = []
        for name, norm in self.norms.items():
            found = collected.get(name)
            if name in self.frozen:
                norm.training = False
            elif name in self._plain:
                norm.forward = _by_batch(norm, found, size)  # type: ignore[method-assign,assignment]
            else:
                norm.training = True
                if found is not None:
                    handles.append(norm.register_forward_pre_hook(_collector(found, size), with_kwargs=True))
        outputs = []
        try:
            for place, batch in enumerate(batches):
                size[0] = samples_in(batch) or 0
                for found in collected.values():
                    found.begin()
                outputs.append(self._output(batch, place))
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    def training_code(self, batches: Iterable[Any]) -> list[list[Tensor]]:
        """Normalise by the running statistics, all modules but norms and dropout in training mode."""
        self._reset(training=True)
        for module in self.model.modules():
            if isinstance(module, _NOISE) or is_batch_norm(module):
                module.training = False
        return self.outputs(batches)

    def fixed_statistics(self, batches: Iterable[Any], moments: Mapping[str, Moments]) -> Any:
        """Evaluate with these statistics in place of the running ones; return the outputs."""
        self._reset(training=False)
        for name, found in moments.items():
            norm: Any = self.norms[name]
            mean = found.mean
            variance = found.variance(unbiased=found.count > 1)
            if name in self._plain:
                norm.forward = _by_fixed(norm, mean, variance)
            elif norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean = mean.to(norm.running_mean)
                norm.running_var = variance.to(norm.running_var)
        return self.outputs(batches)

    def _reset(self, *, training: bool) -> None:
        if training:
            self.model.train()  # as the user's own method has it
        else:
            for module in self.model.modules():
                module.training = False
        for name in self._plain:
            vars(self.norms[name]).pop("forward", None)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    found = args[0] if args else next(iter(kwargs.values()), None)
    return found if isinstance(found, Tensor) and found.dim() > 1 and found.numel() else None


def _counter(counts: list[int]) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = _argument(args, kwargs)
        if x is not None and counts:
            values = x.numel() // x.shape[1]
            counts[-1] = min(counts[-1], values) if counts[-1] else values

    return hook


def _collector(found: Collected, size: list[int]) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = _argument(args, kwargs)
        if x is not None:
            found.add(x, size[0])

    return hook


def _by_batch(norm: _BatchNorm, found: Collected | None, size: list[int]) -> Callable[[Tensor], Tensor]:
    def forward(input: Tensor) -> Tensor:
        if found is None:
            return F.batch_norm(input, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        mean, variance = found.add(input, size[0])
        return _normalised(norm, input, mean, variance)

    return forward


def _by_fixed(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> Callable[[Tensor], Tensor]:
    def forward(input: Tensor) -> Tensor:
        return _normalised(norm, input, mean, variance)

    return forward


def _normalised(norm: _BatchNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    like = next((t for t in (norm.running_mean, norm.weight) if t is not None), x)
    kept = like.dtype if like.is_floating_point() else torch.float32
    mean, variance = (part.to(x.device, kept) for part in (mean, variance))
    return F.batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)
