"""What a recorded run is made of: accesses to tensors, calls of modules, operations."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from xhat.dataflow._words import module_name
from xhat.lang import Name, say

TENSOR = object()  # stands for the tensor in the arguments of an operation that moves data


@dataclass(frozen=True)
class Access:
    """A tensor as an operation or a call saw it: which value, and how it lay in memory."""

    value: int  # one content of one piece of memory; writing to it makes another value
    size: tuple[int, ...]
    stride: tuple[int, ...]  # in elements
    offset: int  # in elements
    dtype: torch.dtype

    def __repr__(self) -> str:
        return f"Access(value {self.value}, {self.size}, {self.dtype})"


@dataclass(eq=False)
class Call:
    """One call of a module; read only."""

    module: str  # full name; empty for the model itself
    index: int  # of this module's calls, from 0
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

    def __repr__(self) -> str:
        mode = "train" if self.training else "eval"
        return f"Call({self.module!r}, {self.index}, {mode}, operations {self.begin} to {self.end})"


@dataclass(eq=False)
class Op:
    """One operation on tensors; read only."""

    index: int
    name: str  # without namespace and overload, as “add”
    call: Call  # the innermost call from within which it came
    reads: tuple[Access, ...]
    made: tuple[Access, ...]  # new values: results, and what was written in place, as it is afterwards
    in_place: frozenset[int]  # values that it overwrote
    moving: "Moving | None" = None  # set where each result is one of the values read
    arguments: tuple[Any, ...] = ()  # what is no tensor, for the operations that need it

    def __repr__(self) -> str:
        return f"Op({self.index}, {self.name!r}, in {self.call.module!r})"


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
        """Return a short name of the place, for messages."""
        if self.kind == "output":
            return say("the model's output")
        if self.kind == "kept":
            return say("a place outside the forward pass")
        inside = module_name(self.call.module if self.call else "")
        if self.kind == "module":
            return module_name(self.name)
        return say("{name} in {module}", name=Name(self.name), module=inside)
