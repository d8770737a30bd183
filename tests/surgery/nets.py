"""Small networks by a program, random batch norms, and outputs to compare, all without xhat."""

import copy
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def quickly() -> Iterator[None]:
    """Run small networks quickly: threads only wait for each other, and garbage is sought in all of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)


class Net(nn.Module):
    """Modules by name, and a function that says how they are called."""

    def __init__(self, program: Callable[..., Any], /, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.program = program

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.program(self, *args, **kwargs)


class FrozenBatchNorm2d(nn.Module):
    """As detection libraries write it: four buffers, and no batch norm of torch's."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((num_features,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.running_var + self.eps).rsqrt()).reshape(1, -1, 1, 1)
        out: Tensor = x * scale + (
            self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale
        )
        return out


def norms_of(model: nn.Module) -> list[str]:
    return [
        name for name, module in model.named_modules() if isinstance(module, _BatchNorm | FrozenBatchNorm2d)
    ]


def randomise_(model: nn.Module, seed: int = 0) -> None:
    """Give all parameters and statistics values that hide no mistake."""
    drawn = torch.Generator().manual_seed(seed)

    def between(like: Tensor, low: float, high: float) -> Tensor:
        return (torch.rand(like.shape, generator=drawn) * (high - low) + low).to(like)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.bias is not None:
                module.bias.copy_(between(module.bias, -1, 1))
            if not isinstance(module, _BatchNorm | FrozenBatchNorm2d):
                continue
            for name, low, high in [
                ("weight", 0.5, 1.5),
                ("bias", -1, 1),
                ("running_mean", -1, 1),
                ("running_var", 0.3, 3),
            ]:
                tensor = getattr(module, name, None)
                if isinstance(tensor, Tensor):
                    tensor.copy_(between(tensor, low, high))
            if isinstance(getattr(module, "weight", None), Tensor):
                module.weight[0].neg_()


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of an output, whatever holds them."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [leaf for key in tree for leaf in leaves(tree[key])]
    if isinstance(tree, list | tuple):
        return [leaf for part in tree for leaf in leaves(part)]
    if slots := getattr(tree, "__slots__", None):
        return [leaf for name in slots for leaf in leaves(getattr(tree, name))]
    if dataclasses.is_dataclass(tree):
        return [leaf for field in dataclasses.fields(tree) for leaf in leaves(getattr(tree, field.name))]
    return []


def outputs(model: nn.Module, inputs: Any, kwargs: dict[str, Any] | None = None) -> list[Tensor]:
    """What the model gives in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    inputs, kwargs = copy.deepcopy((inputs, kwargs or {}))
    with torch.no_grad(), torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        found = leaves(model.eval()(*inputs, **kwargs))
    for module, mode in modes:
        module.training = mode
    return found


def fresh(tree: Any, seed: int = 1) -> Any:
    """Other random values in the place of all floating tensors."""
    drawn = torch.Generator().manual_seed(seed)
    tree = copy.deepcopy(tree)
    for leaf in leaves(tree):
        if leaf.is_floating_point():
            leaf.copy_(torch.randn(leaf.shape, generator=drawn).to(leaf))
    return tree


def gap(before: list[Tensor], after: list[Tensor]) -> float:
    """The largest difference, in units of each output's largest value where that is above one."""
    assert [tensor.shape for tensor in before] == [tensor.shape for tensor in after]
    assert [tensor.dtype for tensor in before] == [tensor.dtype for tensor in after]
    gaps = [
        float((new - old).detach().abs().max() / max(1.0, float(old.detach().abs().max())))
        for old, new in zip(before, after, strict=True)
        if old.numel()
    ]
    return max(gaps, default=0.0)
