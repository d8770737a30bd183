"""What a network is trained to do: batches, losses, chance level and final evaluation."""

# ruff: noqa: D102 - the methods are described once, in the protocol

import math
from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xhat.data import TensorData
from xhat.errors import ModelError
from xhat.study.spec import FIRST_SEED
from xhat.study.store import Arrays

_CHUNK = 500


class Task(Protocol):
    """Batches and losses of one run; M members (1 unless an ensemble)."""

    chance: Tensor  # (M,) the loss of a network that has learned nothing

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return input and target of a step; the same for all arms of a seed."""
        ...

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the members' losses, shape (M,)."""
        ...

    def fixed(self, samples: int) -> Tensor:
        """Return a fixed input of the first ``samples`` training samples."""
        ...

    def evaluate(self, model: nn.Module) -> Arrays:
        """Return what the trained network reaches."""
        ...

    def assess(self, model: nn.Module, *, train: int | None) -> tuple[Tensor, Tensor]:
        """Return accuracy and mean loss, each (M,), in the model's present mode.

        On the test samples, or with ``train`` on so many of the first training samples.
        """
        ...


class _Order:
    """The order of samples for one seed: a new permutation each epoch, whole batches only."""

    def __init__(self, seed: int, samples: int, batch_size: int) -> None:
        self._generator = torch.Generator().manual_seed(1_000_003 + FIRST_SEED + seed)
        self._samples, self._size = samples, min(batch_size, samples)
        self._left = torch.empty(0, dtype=torch.long)

    def next(self) -> Tensor:
        if len(self._left) < self._size:
            self._left = torch.randperm(self._samples, generator=self._generator)
        batch, self._left = self._left[: self._size], self._left[self._size :]
        return batch


class Classification:
    """Cross-entropy on one network, inputs (N, ...), targets (N,)."""

    def __init__(self, data: TensorData, seed: int, batch_size: int) -> None:
        self.chance = torch.tensor([math.log(data.classes)])
        self._data = data
        self._order = _Order(seed, len(data.train_y), batch_size)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        chosen = self._order.next()
        return self._data.train_x[chosen], self._data.train_y[chosen]

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        if output.dim() != 2 or output.shape[1] < self._data.classes or len(output) != len(target):
            raise ModelError(
                f"the network gave an output of shape {tuple(output.shape)} for {len(target)} inputs of "
                f"shape {tuple(self._data.train_x.shape[1:])}; {self._data.name} has {self._data.classes} "
                f"classes, so ({len(target)}, {self._data.classes}) is needed"
            )
        return F.cross_entropy(output, target)[None]

    def fixed(self, samples: int) -> Tensor:
        return self._data.train_x[:samples]

    def evaluate(self, model: nn.Module) -> Arrays:
        model.eval()
        return {"test_accuracy": self.assess(model, train=None)[0].numpy()}

    @torch.no_grad()
    def assess(self, model: nn.Module, *, train: int | None) -> tuple[Tensor, Tensor]:
        data = self._data
        x, y = (data.test_x, data.test_y) if train is None else (data.train_x[:train], data.train_y[:train])
        right, loss = 0, 0.0
        for part, target in _chunks(x, y, _device(model)):
            output = model(part)
            right += int((output.argmax(1) == target).sum())
            loss += float(F.cross_entropy(output, target, reduction="sum"))
        return torch.tensor([right / len(y)], dtype=torch.float64), torch.tensor([loss / len(y)])


class EnsembleClassification:
    """Cross-entropy on an ensemble: inputs (groups, features, N), output (M, classes, N), targets (M, N).

    Members of a seed stand side by side and share their batches.
    """

    def __init__(self, data: TensorData, seeds: tuple[int, ...], batch_size: int) -> None:
        distinct = list(dict.fromkeys(seeds))
        share = len(seeds) // len(distinct)
        if seeds != tuple(seed for seed in distinct for _ in range(share)):
            raise ValueError("members of one seed must stand side by side, as many for each seed")
        self.chance = torch.full((len(seeds),), math.log(data.classes))
        self._share = share
        self._x, self._y = data.train_x.flatten(1), data.train_y
        self._data = data
        self._orders = [_Order(seed, len(self._y), batch_size) for seed in distinct]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        chosen = torch.stack([order.next() for order in self._orders])
        return self._x[chosen].transpose(1, 2), self._y[chosen].repeat_interleave(self._share, 0)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none").mean(1)

    def fixed(self, samples: int) -> Tensor:
        return self._x[:samples].t()[None]

    def evaluate(self, model: nn.Module) -> Arrays:
        model.eval()
        return {"test_accuracy": self.assess(model, train=None)[0].numpy()}

    @torch.no_grad()
    def assess(self, model: nn.Module, *, train: int | None) -> tuple[Tensor, Tensor]:
        data = self._data
        x, y = (data.test_x.flatten(1), data.test_y) if train is None else (self._x[:train], self._y[:train])
        device = _device(model)
        right = torch.zeros(len(self.chance), dtype=torch.long, device=device)
        loss = torch.zeros(len(self.chance), device=device)
        for part, target in _chunks(x, y, device):
            output = model(part.t()[None])
            right += (output.argmax(1) == target).sum(1)
            loss += F.cross_entropy(output, target.expand(len(loss), -1), reduction="none").sum(1)
        return right.double().cpu() / len(y), loss.cpu() / len(y)


class LinearRegression:
    """[S]'s task for the deep linear network: Σ‖f(x) - Ax‖² over 1,000 Gaussian inputs, full batch.

    Every seed has its own x and A. "Chance" is the loss of a network that always answers 0.
    """

    def __init__(self, seeds: tuple[int, ...], *, width: int = 10, samples: int = 1000) -> None:
        made = {seed: _linear_data(seed, width, samples) for seed in seeds}
        self._x = torch.stack([made[seed][0] for seed in seeds])
        self._target = torch.stack([made[seed][1] for seed in seeds])
        self.chance = self._target.square().sum((1, 2))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self._x, self._target

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().sum((1, 2))

    def fixed(self, samples: int) -> Tensor:
        return self._x[:, :, :samples]

    def evaluate(self, model: nn.Module) -> Arrays:
        return {}

    @torch.no_grad()
    def assess(self, model: nn.Module, *, train: int | None) -> tuple[Tensor, Tensor]:
        """Return NaN, since nothing is classified, and the loss on all samples, which are training and test."""
        device = _device(model)
        losses = self.losses(model(self._x.to(device)), self._target.to(device))
        return torch.full((len(self.chance),), torch.nan), losses.cpu()


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _chunks(x: Tensor, y: Tensor, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(y), _CHUNK):
        yield x[start : start + _CHUNK].to(device), y[start : start + _CHUNK].to(device)


def _linear_data(seed: int, width: int, samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2_000_003 + FIRST_SEED + seed)
    x = torch.randn(width, samples, generator=generator)
    return x, torch.randn(width, width, generator=generator) @ x
