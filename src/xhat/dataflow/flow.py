"""What a run of a model did: its calls, its operations, and where each value came from and went."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from xhat.dataflow._labels import labels_along
from xhat.dataflow._levels import norm_levels
from xhat.dataflow._ops import NOISE, NOISY
from xhat.dataflow.parts import Access, Call, Op, Source, Use

Mode = Literal["train", "eval"]


@dataclass(eq=False)
class Flow:
    """One run in one mode; read only."""

    mode: Mode
    calls: dict[str, tuple[Call, ...]]  # by full name, in the order of calls
    ops: tuple[Op, ...]
    output: tuple[Access, ...]  # tensors of the model's output
    inputs: frozenset[int]  # values that came in
    parameters: dict[int, tuple[str, ...]]  # values of parameters and buffers: full names
    kept: frozenset[int]  # values that something still held when the run was over
    norms: frozenset[str]  # full names of batch norms

    def __repr__(self) -> str:
        return f"Flow({self.mode}, {len(self.calls)} modules, {len(self.ops)} operations)"

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
        return labels_along(source, axis, path, read)

    def levels(self) -> dict[str, int]:
        """Return how many batch norms lie before each, itself included, on the longest way to it."""
        return norm_levels(self.ops, self.norms, self.parameters)


@dataclass(frozen=True)
class Recording:
    """The runs of a model on example inputs."""

    eval: Flow | None  # None where it was not asked for, or failed
    train: Flow | None
    failures: dict[str, str]  # by mode: what the model raised

    def flow(self, mode: Mode) -> Flow | None:
        """Return the run in one mode."""
        return self.eval if mode == "eval" else self.train
