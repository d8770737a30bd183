"""A model with every kind of state, and a look at all that can be seen of a model."""

import random
from collections import OrderedDict, deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Counting(nn.Module):
    """Every kind of state that a user's module may keep."""

    scale: Tensor
    signed: Tensor
    kept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.inner.weight
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)
        self.experts = nn.ModuleList([nn.Linear(3, 3, dtype=torch.float64), nn.BatchNorm1d(3, affine=False)])
        self.register_buffer("scale", torch.tensor([1.0, -0.0, torch.nan]))
        self.register_buffer("signed", torch.tensor([-0.0, 1.0]))
        self.register_buffer("kept", torch.ones(3), persistent=False)
        self.register_buffer("nothing", None)
        self.register_buffer("wide", torch.ones(1).expand(4))
        self.calls = 0
        self.sizes = [3]
        self.options: dict[str, Any] = {"depth": {"now": [1, 2]}, "tensor": torch.zeros(2)}
        self.ordered = OrderedDict(a=1, b=2)
        self.recent = deque([torch.zeros(1)], maxlen=3)
        self.names = {"a"}
        self.cached: Tensor | None = torch.zeros(3)
        self.array = np.arange(3.0)
        self.pair = (torch.zeros(2), [1])
        self.hidden = [nn.Linear(2, 2)]  # not registered, as a teacher or an average of weights often is
        self.generators = [torch.Generator(), np.random.default_rng(0), random.Random(0)]
        self.legacy = np.random.RandomState(0)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes.append(len(x))
        self.kept = self.kept * 2
        self.cached = x.detach()
        return self.dropout(self.norm(self.tied(self.inner(x))))


def make() -> Counting:
    torch.manual_seed(0)
    model = Counting()
    model.inner.bias.requires_grad_(False)
    model(torch.randn(4, 3)).sum().backward()
    assert model.norm.weight.grad is not None
    model.norm.weight.grad[0] = -0.0
    model.norm.eval()
    model.dropout.train()
    model.inner.register_forward_hook(lambda *_: None)
    return model


def bits(tensor: Tensor) -> tuple[object, ...]:
    """All of a tensor, the object itself included."""
    gradient = tensor.grad if tensor.is_leaf else None
    return (
        id(tensor),
        tensor.data_ptr(),
        tensor.dtype,
        tensor.stride(),
        tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes(),
        tensor.requires_grad,
        tensor.is_leaf,
        gradient if gradient is None else (id(gradient), gradient.numpy().tobytes()),
    )


def look(value: Any) -> object:
    """Everything that can be seen of a value, as something that can be compared."""
    if isinstance(value, Tensor):
        return bits(value)
    if isinstance(value, nn.Module):
        return id(value), look(vars(value))
    if isinstance(value, dict):
        return id(value), [(key, look(inner)) for key, inner in value.items()]
    if isinstance(value, list | tuple | deque):
        return id(value), [look(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return value.getstate()
    return repr(value)


def look_around(model: nn.Module) -> tuple[object, ...]:
    return (
        look(model),
        torch.get_rng_state().tolist(),
        repr(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
    )
