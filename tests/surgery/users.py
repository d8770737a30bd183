"""Batch norms as users write them, at module level so that they can be pickled."""

from typing import Any

import torch
from torch import Tensor, nn


class BatchNormAct(nn.BatchNorm2d):
    """With its activation in its forward, and dropout, as timm has it."""

    def __init__(self, num_features: int, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.drop, self.act = nn.Dropout(0.0), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(x)))
        return out


class Registered(nn.BatchNorm1d):
    """Counts its subclasses, and wants a name of each."""

    kinds: list[str] = []  # noqa: RUF012

    def __init_subclass__(cls, *, name: str) -> None:
        super().__init_subclass__()
        cls.kinds.append(name)


class OwnReduce(nn.BatchNorm1d):
    """Pickles by its arguments."""

    def __reduce__(self) -> Any:
        return type(self), (self.num_features,), self.__dict__


class OwnState(nn.BatchNorm1d):
    """Pickles only what it knows of."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_xhat")}


class Net(nn.Module):
    """One layer of each kind, one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn2d = nn.BatchNorm2d(4)
        self.user = BatchNormAct(4)
        self.bn3d = nn.BatchNorm3d(4, affine=False)
        self.flat = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, bias=False))
        self.sync = nn.SyncBatchNorm(5)
        self.again = self.flat[1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.user(self.bn2d(self.conv(x)))
        x = self.bn3d(x[:, :, None])[:, :, 0].mean((2, 3))
        out: Tensor = self.again(self.sync(self.flat(x)))
        return out


def trained_net() -> Net:
    """A network whose statistics, γ and β are not those of a fresh one."""
    torch.manual_seed(0)
    net = Net()
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.5)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, 6, 6) + 1)
    return net
