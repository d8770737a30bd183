"""What the tests of recalibration share: an independent loop in float64, and models."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xhat.norms import batch_norms
from xhat.surgery import Recalibration

Batches = list[Any]


# --- the oracle


def oracle(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    by_batch: Iterable[str],
    watch: Iterable[str],
    run: Callable[[nn.Module, Any], Any] = lambda model, batch: model(batch),
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Return mean, unbiased variance and count of all values that the layers saw, from a plain loop."""
    model = copy.deepcopy(model).eval()
    held: dict[str, list[Tensor]] = {name: [] for name in watch}
    for name, norm in batch_norms(model).items():
        norm.training = name in by_batch
        if name in held:
            norm.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: held[name].append(
                    (args or (*kwargs.values(),))[0].double()
                ),
                with_kwargs=True,
            )
    with torch.no_grad():
        for batch in batches:
            run(model, batch)
    found = {}
    for name, inputs in held.items():
        values = torch.cat([x.movedim(1, 0).flatten(1) for x in inputs], 1)
        found[name] = values.mean(1), values.var(1, correction=1), values.shape[1]
    return found


def check(
    model: nn.Module,
    expected: dict[str, tuple[Tensor, Tensor, int]],
    result: Recalibration,
    rtol: float = 2e-6,
) -> None:
    assert {*expected} <= {*result.layers}
    for name, (mean, var, count) in expected.items():
        norm = batch_norms(model)[name]
        sigma = float(var.max().sqrt())
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=rtol, atol=rtol * sigma)
        torch.testing.assert_close(norm.running_var.double(), var, rtol=rtol, atol=rtol * sigma**2)
        assert result.values[name] == count


def in_turn(
    model: nn.Module, batches: Batches, order: Iterable[str]
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Return what a sequential run gives, one layer after the other, all in evaluation mode."""
    model = copy.deepcopy(model)
    found = {}
    for name in order:
        found |= oracle(model, batches, by_batch=(), watch=[name])
        batch_norms(model)[name].running_mean.copy_(found[name][0])
        batch_norms(model)[name].running_var.copy_(found[name][1])
    return found


# --- models


class Residual(nn.Module):
    """Two branches of different depth, and a chain behind them: bn1 → (bn2 → bn3, bn4) → bn5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.bn1, self.bn2, self.bn3, self.bn4, self.bn5 = (nn.BatchNorm2d(4) for _ in range(5))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.bn1(self.conv1(x)).relu())
        left = self.bn3(self.conv2(self.bn2(x)).relu())
        right = self.bn4(input=self.conv3(x))
        return self.bn5(self.conv4((left + right).relu()))


class Fused(nn.BatchNorm2d):
    """A batch norm with an activation, whose own mode must not switch its dropout on."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Dropout(0.9)

    def forward(self, input: Tensor) -> Tensor:
        return self.drop(super().forward(input).relu())


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.first, self.shared = nn.BatchNorm1d(5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.b(self.shared(self.a(self.first(x)))))


def randomised(model: nn.Module) -> nn.Module:
    """Statistics, γ and β as after some training."""
    generator = torch.Generator().manual_seed(1)
    for norm in batch_norms(model).values():
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if tensor is not None:
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def convolutional() -> nn.Module:
    return randomised(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4))
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6)), (5,)),
    "1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4)), (3, 8)),
    "2d": (convolutional, (3, 9, 9)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (2, 4, 4, 4)),
    "channels_last": (lambda: convolutional().to(memory_format=torch.channels_last), (3, 9, 9)),
    "residual": (Residual, (4, 6, 6)),
    "itself": (lambda: nn.BatchNorm2d(3), (3, 4, 4)),
    "no-affine": (lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.BatchNorm2d(3)), (3, 4, 4)),
    "cumulative": (lambda: nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3)), (3, 4, 4)),
    "synchronised": (lambda: nn.SyncBatchNorm.convert_sync_batchnorm(convolutional()), (3, 9, 9)),
    "subclass": (lambda: nn.Sequential(Fused(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (3, 5, 5)),
}  # fmt: skip


def data(shape: tuple[int, ...], sizes: Iterable[int] = (4, 2, 5, 3)) -> Batches:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(size, *shape, generator=generator) * 2 + 1 for size in sizes]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(value.nan_to_num(), before[key].nan_to_num()) for key, value in model.state_dict().items()
    )


def mlp() -> nn.Module:
    return randomised(
        nn.Sequential(
            nn.Unflatten(1, (1, 6)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4)
        )
    )


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(3)

    def forward(self, image: Tensor, scale: Tensor) -> Tensor:
        return self.bn(image * scale)
