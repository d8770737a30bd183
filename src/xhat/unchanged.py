"""One context manager that every probe uses: the model comes out bit for bit as it went in."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

# How many ``unchanged`` blocks surround the running code: what runs in one is not the user's training.
_DEPTH = ContextVar("xhat_probes", default=0)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore, on the way out and also on exceptions and Ctrl-C, all that a probe may alter.

    That is: parameters, buffers (also ones that a forward pass replaces by new tensors), gradients,
    ``requires_grad``, training or evaluation mode of every module, hooks, plain attributes of the modules
    (counters, cached tensors, arrays, containers at any depth, random generators), and the random state of
    torch (CPU and CUDA), numpy and Python.
    """
    state = State(model)
    token = _DEPTH.set(_DEPTH.get() + 1)
    try:
        yield
    finally:
        try:
            state.restore()
        finally:
            _DEPTH.reset(token)


def probe_depth() -> int:
    """Return how many ``unchanged`` blocks surround the caller."""
    return _DEPTH.get()


class State:
    """What a model holds, and the global random state, to be restored as often as asked.

    Args:
        model: The model, whose modules' attributes are followed through containers of any depth.
        without: Tensors that the caller moves: their memory is not restored.
    """

    def __init__(self, model: nn.Module, *, without: Iterable[Tensor] = ()) -> None:
        moving = {_memory(tensor) for tensor in without}
        self._randomness = _RandomState()
        # Identity, not equality, tells objects apart: what two modules share is saved once.
        self._saved: dict[int, _Saved] = {}
        todo: list[Any] = [model, *model.parameters(), *model.buffers()]
        while todo:
            value = todo.pop()
            if isinstance(value, nn.Module):
                todo.append(vars(value))
            elif isinstance(value, tuple):
                todo += value
            elif value is None or isinstance(value, int | float | str):
                continue  # most values, and none of them can be altered
            elif id(value) not in self._saved and not (
                isinstance(value, Tensor) and _memory(value) in moving
            ):
                kind = next((kind for types, kind in _KINDS if isinstance(value, types)), None)
                if kind is not None:
                    self._saved[id(value)] = kind(value)
                if isinstance(value, _CONTAINERS):
                    todo += _contents(value)

    def restore(self) -> None:
        """Put everything back."""
        for saved in self._saved.values():
            saved.restore()
        self._randomness.restore()


class _Saved(Protocol):
    def restore(self) -> None: ...


class _TensorState:
    """A tensor's memory and values, its gradient and whether it wants one."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.memory = tensor.data  # apart, since a probe may assign ``tensor.data``
        self.values = tensor.detach().clone()
        self.is_leaf = tensor.is_leaf
        self.requires_grad = tensor.requires_grad
        self.gradient = tensor.grad if tensor.is_leaf else None
        self.gradient_state = None if self.gradient is None else _TensorState(self.gradient)

    def restore(self) -> None:
        if self.is_leaf and not self.tensor.is_leaf and not self.tensor._is_view():
            self.tensor.detach_()  # an in-place operation had put a buffer into a graph
        if self.tensor.is_leaf:
            self.tensor.grad = None  # one of another dtype would not fit the memory
        self.tensor.data = self.memory
        if not _same_bits(self.memory, self.values):
            self.memory.copy_(self.values)
        if not self.tensor.is_leaf:
            return
        self.tensor.requires_grad_(self.requires_grad)
        if self.gradient_state is not None:
            self.gradient_state.restore()
        self.tensor.grad = self.gradient


class _ContainerState:
    """What a dict, list, set or deque holds, in its order."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.keys = list(container)
        self.contents = _contents(container)

    def restore(self) -> None:
        if not self.keys and not self.container:
            return  # most of a module's registries
        now = [*self.container, *_contents(self.container)]
        then = [*self.keys, *self.contents]
        if len(now) == len(then) and all(a is b for a, b in zip(now, then, strict=True)):
            return  # also spares a container that refuses changes
        self.container.clear()
        if isinstance(self.container, dict):
            self.container.update(zip(self.keys, self.contents, strict=True))
        elif isinstance(self.container, set):
            self.container.update(self.contents)
        else:
            self.container.extend(self.contents)


class _ArrayState:
    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array, self.values = array, array.copy()

    def restore(self) -> None:
        if self.array.flags.writeable:
            self.array[...] = self.values


class _GeneratorState:
    """A generator of random numbers of torch, numpy or Python that a module draws from."""

    def __init__(self, generator: Any) -> None:
        self.generator: Any = generator
        if isinstance(generator, torch.Generator | np.random.RandomState):
            self.state: Any = generator.get_state()
        elif isinstance(generator, np.random.Generator):
            self.state = generator.bit_generator.state
        else:
            self.state = generator.getstate()

    def restore(self) -> None:
        if isinstance(self.generator, torch.Generator | np.random.RandomState):
            self.generator.set_state(self.state)
        elif isinstance(self.generator, np.random.Generator):
            self.generator.bit_generator.state = self.state
        else:
            self.generator.setstate(self.state)


class _RandomState:
    """The global random state of torch, numpy and Python."""

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


_CONTAINERS = (dict, list, set, deque)
_KINDS: tuple[tuple[Any, Callable[[Any], _Saved]], ...] = (
    (Tensor, _TensorState),
    (_CONTAINERS, _ContainerState),
    (np.ndarray, _ArrayState),
    ((torch.Generator, np.random.Generator, np.random.RandomState, random.Random), _GeneratorState),
)


def _contents(container: Any) -> list[Any]:
    return list(container.values() if isinstance(container, dict) else container)


def _memory(tensor: Tensor) -> int:
    """What tensors have in common that share memory."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, the signs of their zeros too; NaN count as unequal."""
    if not torch.equal(a, b):
        return False
    return not a.is_floating_point() or torch.equal(a.signbit(), b.signbit())
