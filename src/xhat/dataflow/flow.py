"""What a run of a model did: its calls, its operations, and where each value came from and went."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

Mode = Literal["train", "eval"]


@dataclass(frozen=True)
class Access:
    """A tensor as an operation or a call saw it: which value, and how it lay in memory."""

    value: int  # one content of one piece of memory; writing to it makes another value
    size: tuple[int, ...]
    stride: tuple[int, ...]  # in elements
    offset: int  # in elements
    dtype: torch.dtype


@dataclass(eq=False)
class Call:
    """One call of a module."""

    module: str  # full name; empty for the model itself
    index: int  # the how-manieth call of this module, from 0
    parent: "Call | None"  # the call from within which it was called
    training: bool  # the module's mode
    begin: int  # operations done before
    end: int = -1  # operations done when it returned, or raised: then it has no outputs
    inputs: tuple[Access, ...] = ()  # tensors in arguments, in their order
    outputs: tuple[Access, ...] = ()
    children: list["Call"] = field(default_factory=list)

    def is_within(self, other: "Call") -> bool:
        """Whether this call happened inside the other, or is the other."""
        call: Call | None = self
        while call is not None and call is not other:
            call = call.parent
        return call is other


@dataclass(eq=False)
class Op:
    """One operation on tensors."""

    index: int
    name: str  # without namespace and overload, as “add”
    call: Call  # the innermost call from within which it came
    reads: tuple[Access, ...]
    made: tuple[Access, ...]  # new values: results, and what was written in place, as it is afterwards
    in_place: frozenset[int]  # values that it overwrote
    moving: "Moving | None" = None  # set where each result is one of the values read
    arguments: tuple[Any, ...] = ()  # what is no tensor, for the operations that need it


@dataclass(frozen=True)
class Moving:
    """How to do an operation that only moves values again, on labels in place of values."""

    function: Any
    args: tuple[Any, ...]  # with None in the place of the tensor
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What made a tensor."""

    kind: Literal["module", "function", "input", "parameter", "unknown"]
    name: str  # the module's full name; the operation; the parameter's full name
    call: Call | None  # the innermost call that it was made in
    access: Access  # as it was made, before data was moved
    random: bool = False  # made with random numbers, as dropout's result is


@dataclass(frozen=True)
class Use:
    """What a tensor is used for."""

    kind: Literal["module", "function", "output", "kept"]
    name: str  # the module's full name, or the operation
    call: Call | None  # the innermost call that reads it
    op: Op | None
    access: Access | None  # as it is read, after data was moved
    in_place: bool = False  # overwritten
    path: tuple[Op, ...] = ()  # the operations that moved data on the way

    @property
    def where(self) -> str:
        """Return a short name for messages."""
        if self.kind == "output":
            return "the model's output"
        if self.kind == "kept":
            return "a place outside the forward pass"
        inside = self.call.module if self.call else ""
        done = "changed in place by " if self.in_place else ""
        if self.kind == "module":
            return f"{done}{self.name or 'the model itself'}"
        return f"{done}{self.name} in {inside or 'the model itself'}"


@dataclass(eq=False)
class Flow:
    """One run in one mode."""

    mode: Mode
    calls: dict[str, tuple[Call, ...]]  # by full name, in the order of calls
    ops: tuple[Op, ...]
    output: tuple[Access, ...]  # tensors of the model's output
    inputs: frozenset[int]  # values that came in
    parameters: dict[int, tuple[str, ...]]  # values of parameters and buffers: full names
    kept: frozenset[int]  # values that something still held when the run was over
    norms: frozenset[str]  # full names of batch norms

    @cached_property
    def _makers(self) -> dict[int, Op]:
        return {access.value: op for op in self.ops for access in op.made}

    @cached_property
    def _readers(self) -> dict[int, list[Op]]:
        readers: dict[int, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(access.value for access in op.reads):
                readers.setdefault(value, []).append(op)
        return readers

    @cached_property
    def _noise(self) -> set[int]:
        """Values that hang on nothing but random numbers."""
        from xhat.dataflow._ops import NOISE

        noise: set[int] = set()
        for op in self.ops:
            read = {access.value for access in op.reads} - set(self.parameters)
            if op.name in NOISE or (read and read <= noise):
                noise.update(access.value for access in op.made)
        return noise

    def maker(self, access: Access) -> Op | None:
        """Return the operation that made a value; None for inputs and parameters."""
        return self._makers.get(access.value)

    def source(self, call: Call) -> Source:
        """Return what made the tensor that reached a call's first input; moved data count as the same."""
        if not call.inputs:
            return Source("unknown", "", None, Access(-1, (), (), 0, torch.float32))
        return self.source_of(call.inputs[0])

    def source_of(self, access: Access) -> Source:
        """Return what made a tensor; moved data count as the same."""
        while (op := self.maker(access)) is not None and op.moving is not None:
            access = op.reads[0]
        if access.value in self.inputs:
            return Source("input", "", None, access)
        if access.value in self.parameters:
            return Source("parameter", self.parameters[access.value][0], None, access)
        if op is None:
            return Source("unknown", "", None, access)
        made = next(made for made in op.made if made.value == access.value)
        if self._is_module(op, made):
            return Source("module", op.call.module, op.call, made, self._is_random(op))
        return Source("function", op.name, op.call, made, self._is_random(op))

    def _is_module(self, op: Op, made: Access) -> bool:
        ends = any(out.value == made.value for out in op.call.outputs)
        return ends and (not op.call.children or op.call.module in self.norms)

    def _is_random(self, op: Op) -> bool:
        from xhat.dataflow._ops import NOISY

        return op.name in NOISY or any(access.value in self._noise for access in op.reads)

    def uses(self, call: Call) -> tuple[Use, ...]:
        """Return everything that reads a call's outputs; moved data count as the same."""
        return tuple(use for out in call.outputs for use in self.uses_of(out))

    def uses_of(self, access: Access, path: tuple[Op, ...] = ()) -> Iterator[Use]:
        """Yield everything that reads a tensor; moved data count as the same."""
        for op in self._readers.get(access.value, ()):
            if op.moving is not None:
                yield from self.uses_of(op.made[0], (*path, op))
                continue
            for read in op.reads:
                if read.value == access.value:
                    own = op.call.module in self.norms or not op.call.children
                    as_module = own and any(given.value == read.value for given in op.call.inputs)
                    kind, name = ("module", op.call.module) if as_module else ("function", op.name)
                    yield Use(kind, name, op.call, op, read, read.value in op.in_place, path)  # type: ignore[arg-type]
        for out in self.output:
            if out.value == access.value:
                yield Use("output", "", None, None, out, path=path)
        if access.value in self.kept and not any(out.value == access.value for out in self.output):
            yield Use("kept", "", None, None, None, path=path)

    def readers_of_parameter(self, name: str) -> frozenset[str]:
        """Return full names of the modules from within whose calls a parameter or buffer was read or written."""
        values = {value for value, names in self.parameters.items() if name in names}
        return frozenset(op.call.module for value in values for op in self._readers.get(value, ()))

    def labels(self, source: Access, axis: int, use: Use) -> Tensor:
        """Return, for each element that a use reads, the channel that it had in the source.

        Args:
            source: The tensor as it was made.
            axis: The channels' axis there.
            use: One of its uses, of kind module or function.

        Returns:
            int64, of the shape that the use reads; −1 where the element is none of the source's.
        """
        if use.access is None:
            raise ValueError("only what is read by an operation has labels")
        return self.labels_along(source, axis, use.path, use.access)

    def labels_along(self, source: Access, axis: int, path: tuple[Op, ...], read: Access) -> Tensor:
        """Return the same for what is read after some operations that moved data."""
        memory = _memory_of(source)
        shape = [1] * len(source.size)
        shape[axis] = -1
        channels = torch.arange(source.size[axis]).view(shape).expand(source.size)
        _seen(memory, source).copy_(channels)
        for op in path:
            moving = op.moving
            assert moving is not None
            given = _seen(_grown(memory, op.reads[0]), op.reads[0])
            args = tuple(given if arg is _TENSOR else arg for arg in moving.args)
            moved = moving.function(*args, **moving.kwargs)
            memory = _memory_of(op.made[0])
            _seen(memory, op.made[0]).copy_(moved)
        return _seen(_grown(memory, read), read).clone()

    def levels(self) -> dict[str, int]:
        """Return how many batch norms lie before each, itself included, on the longest way to it."""
        level: dict[int, int] = {}
        found: dict[str, int] = {}
        entered: dict[int, int] = {}  # calls of batch norms, by identity
        for op in self.ops:
            norm = _norm_call(op.call, self.norms)
            if norm is not None and id(norm) not in entered:
                before = max((level.get(access.value, 0) for access in norm.inputs), default=0)
                entered[id(norm)] = before + 1
                found[norm.module] = max(found.get(norm.module, 0), before + 1)
            height = max((level.get(access.value, 0) for access in op.reads), default=0)
            if norm is not None:
                height = max(height, entered[id(norm)])
            for access in op.made:
                if access.value not in self.parameters:
                    level[access.value] = max(height, level.get(access.value, 0))
        return found


@dataclass(frozen=True)
class Recording:
    """The runs of a model on example inputs."""

    eval: Flow | None  # None where it was not asked for, or failed
    train: Flow | None
    failures: dict[str, str]  # by mode: what the model raised

    def flow(self, mode: Mode) -> Flow | None:
        """Return the run in one mode."""
        return self.eval if mode == "eval" else self.train


_TENSOR = object()  # stands for the tensor in the arguments of an operation that moves data


def _norm_call(call: Call | None, norms: frozenset[str]) -> Call | None:
    while call is not None and call.module not in norms:
        call = call.parent
    return call


def _needed(access: Access) -> int:
    if 0 in access.size:
        return access.offset
    reach = sum((size - 1) * stride for size, stride in zip(access.size, access.stride, strict=True))
    return access.offset + reach + 1


def _memory_of(access: Access) -> Tensor:
    return torch.full((_needed(access),), -1, dtype=torch.int64)


def _grown(memory: Tensor, access: Access) -> Tensor:
    more = _needed(access) - memory.numel()
    return torch.cat([memory, memory.new_full((more,), -1)]) if more > 0 else memory


def _seen(memory: Tensor, access: Access) -> Tensor:
    return memory.as_strided(access.size, access.stride, access.offset)
