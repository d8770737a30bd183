"""One context manager that every probe uses: the model comes out bit for bit as it went in."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore, on the way out and also on exceptions and Ctrl-C, all that a probe may alter.

    That is: parameters, buffers (also ones that a forward pass replaces by new tensors), gradients,
    ``requires_grad``, training or evaluation mode of every module, hooks, plain attributes of the modules
    (counters, cached tensors, lists), and the random state of torch (CPU and CUDA), numpy and Python.
    """
    states = [_ModuleState(module) for module in model.modules()]
    # A weight shared by two modules is saved once; identity, not equality, tells tensors apart.
    tensors = {id(tensor): _TensorState(tensor) for state in states for tensor in state.tensors()}
    randomness = _RandomState()
    try:
        yield
    finally:
        for module_state in states:
            module_state.restore()
        for tensor_state in tensors.values():
            tensor_state.restore()
        randomness.restore()


class _TensorState:
    """A tensor's values, its gradient and whether it wants one."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.values = tensor.detach().clone()
        self.requires_grad = tensor.requires_grad
        self.gradient = tensor.grad if tensor.is_leaf else None
        self.gradient_values = None if self.gradient is None else self.gradient.detach().clone()

    def restore(self) -> None:
        if not torch.equal(self.tensor.detach(), self.values):  # NaN is unequal, hence copied
            self.tensor.data.copy_(self.values)
        if not self.tensor.is_leaf:
            return
        self.tensor.requires_grad_(self.requires_grad)
        self.tensor.grad = self.gradient
        if self.gradient is not None and self.gradient_values is not None:
            self.gradient.data.copy_(self.gradient_values)


class _ModuleState:
    """A module's own attributes: registries of parameters, buffers, hooks; mode; anything else it holds."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = dict(module.__dict__)
        self.contents = {
            name: value.copy()
            for name, value in self.attributes.items()
            if isinstance(value, dict | list | set)
        }

    def tensors(self) -> Iterator[Tensor]:
        for values in (self.attributes, *(c for c in self.contents.values() if isinstance(c, dict))):
            yield from (value for value in values.values() if isinstance(value, Tensor))

    def restore(self) -> None:
        self.module.__dict__.clear()
        self.module.__dict__.update(self.attributes)
        for name, content in self.contents.items():
            value: Any = self.attributes[name]
            value.clear()
            if isinstance(value, list):
                value.extend(content)
            else:
                value.update(content)


class _RandomState:
    """The random state of torch, numpy and Python."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.numpy = np.random.get_state()  # noqa: NPY002 - a user's model may draw from the global one
        self.python = random.getstate()

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)
