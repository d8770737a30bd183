"""What a model says on its batches, kept small, and by how much two ways of running it differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xhat.trees import tensors_in

# Numbers kept of each output of one sample; of larger ones, positions at even distances.
KEPT = 4096

# One pass over the batches: of each batch its output tensors, (N, K, P) each.
Outputs = Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class Gap:
    """How far the outputs of two passes are apart."""

    relative: float  # root mean square difference over the outputs' own spread, the std over samples
    flips: (
        float | None
    )  # share of samples whose largest output is another one; None where there are no classes

    @property
    def square(self) -> float:
        """The relative difference, squared: what adds up when causes are independent."""
        return self.relative**2


@dataclass(frozen=True)
class Score:
    """How good the outputs are, where batches have class targets."""

    loss: float  # mean cross entropy, nats
    accuracy: float
    losses: Tensor = field(repr=False)  # (samples,), float64: what ``loss`` is the mean of


def keep(output: Any, samples: int) -> list[Tensor]:
    """Return the floating tensors of any output whose first axis is the batch's, as float32 (N, K, P).

    K is the second axis, or 1; of the P positions behind it no more are kept than ``KEPT`` allows.
    """
    return [
        _thinned(tensor.detach().reshape(samples, *(tensor.shape[1:2] or (1,)), -1)).float().cpu()
        for tensor in tensors_in(output)
        if tensor.is_floating_point() and tensor.dim() and len(tensor) == samples and tensor.numel()
    ]


def _thinned(values: Tensor) -> Tensor:
    _, width, positions = values.shape
    values = values[:, :: math.ceil(width / KEPT)]
    return values[:, :, :: math.ceil(positions * values.shape[1] / KEPT)]


def spread(outputs: Outputs) -> list[float]:
    """Return for each output tensor the standard deviation over samples, a root mean square over its elements.

    Where all samples give the same, their size stands in; where that is 0, 1.
    """
    return [_spread(tensors) for tensors in zip(*outputs, strict=True)]


def _spread(batches: Sequence[Tensor]) -> float:
    # One sample in each batch is enough to say how large outputs are, and shapes may differ by batch.
    same = [part for part in batches if part.shape[1:] == batches[0].shape[1:]]
    joined = torch.cat(same).double()
    if len(joined) > 1:
        varied = float(joined.var(0).mean().sqrt())
        if math.isfinite(varied) and varied > 1e-6 * float(joined.square().mean().sqrt()):
            return varied
    size = float(joined.square().mean().sqrt())
    return size if math.isfinite(size) and size > 0 else 1.0


def gap(one: Outputs, other: Outputs, spreads: Sequence[float]) -> Gap | None:
    """Return the difference of two passes over the same batches; None where outputs have other shapes.

    A difference that is not finite, as of a NaN, counts as infinite.
    """
    squares, flipped, samples = torch.zeros(len(spreads), dtype=torch.float64), 0, 0
    sizes = torch.zeros_like(squares)
    for a, b in zip(one, other, strict=True):
        if [x.shape for x in a] != [x.shape for x in b] or len(a) != len(spreads) or not a:
            return None
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            squares[place] += (x - y).double().square().sum() / spreads[place] ** 2
            sizes[place] += x.numel()
        if has_classes(a[0]):
            flipped += int((a[0].argmax(1) != b[0].argmax(1)).sum())
            samples += len(a[0])
    relative = float((squares / sizes).mean().sqrt())
    return Gap(relative if math.isfinite(relative) else math.inf, flipped / samples if samples else None)


def has_classes(output: Tensor) -> bool:
    """Whether an output looks like one score a class."""
    return output.shape[1] > 1 and output.shape[2] == 1


def score(outputs: Outputs, targets: Sequence[Tensor | None]) -> Score | None:
    """Return loss and accuracy of the first output, where all targets are its classes."""
    losses, right = [], 0
    for tensors, target in zip(outputs, targets, strict=True):
        if not tensors or not has_classes(tensors[0]) or not are_classes(target, tensors[0]):
            return None
        assert target is not None
        logits = tensors[0][:, :, 0].double()
        losses.append(F.cross_entropy(logits, target.cpu().long(), reduction="none"))
        right += int((logits.argmax(1) == target.cpu()).sum())
    if not losses:
        return None
    joined = torch.cat(losses)
    return Score(float(joined.mean()), right / len(joined), joined)


def are_classes(target: Tensor | None, output: Tensor) -> bool:
    """Whether a target holds one class a sample, of as many classes as the output has."""
    return (
        target is not None
        and target.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
        and target.shape == output.shape[:1]
        and bool(((target >= 0) & (target < output.shape[1])).all())
    )
