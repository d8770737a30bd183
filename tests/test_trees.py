"""Tensors are found and replaced in whatever users nest them."""

import enum
import threading
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from xhat.trees import cloned, map_tensors, tensors_in, to_dtype

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Plain:
    x: Tensor
    name: str = "a"


@dataclass(frozen=True)
class Frozen:
    x: Tensor


@dataclass(slots=True)
class Slots:
    x: Tensor
    rest: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    x: Tensor


class Handwritten:
    __slots__ = ("unset", "x")

    def __init__(self, x: Tensor) -> None:
        self.x = x


class Derived(Handwritten):
    """Slots of its base, and a dictionary of its own."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.y = x + 1


class Kind(enum.Enum):
    ONE = 1


ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0])
TREES: dict[str, tuple[Callable[[], Any], list[float]]] = {
    "tensor": (lambda: ONE, [1]),
    "tuple": (lambda: (ONE, (TWO, None)), [1, 2]),
    "list": (lambda: [ONE, [TWO, 3], "text"], [1, 2]),
    "dict": (lambda: {"a": ONE, "b": {"c": TWO}}, [1, 2]),
    "ordered": (lambda: OrderedDict(b=TWO, a=ONE), [2, 1]),
    "default": (lambda: defaultdict(list, {"a": [ONE]}), [1]),
    "user-dict": (lambda: UserDict({"a": ONE}), [1]),
    "set": (lambda: {ONE}, [1]),
    "named-tuple": (lambda: Pair(ONE, TWO), [1, 2]),
    "data-class": (lambda: Plain(ONE), [1]),
    "frozen": (lambda: Frozen(ONE), [1]),
    "slots": (lambda: Slots(ONE, [TWO]), [1, 2]),
    "frozen-slots": (lambda: FrozenSlots(ONE), [1]),
    "handwritten": (lambda: Handwritten(ONE), [1]),
    "derived": (lambda: Derived(ONE), [1, 2]),
    "namespace": (lambda: SimpleNamespace(a=[ONE], lock=None), [1]),
    "packed": (lambda: pack_sequence([ONE]), [1, 1]),
    "held-twice": (lambda: [ONE, ONE], [1, 1]),
    "parameter": (lambda: [nn.Parameter(ONE.clone(), requires_grad=False)], [1]),
    "nothing": (lambda: [1, None, "a", Kind.ONE, torch.float32, range(3), Kind], []),
}


@pytest.mark.parametrize("name", TREES)
def test_found_and_replaced(name: str) -> None:
    make, values = TREES[name]
    tree = make()
    assert [float(tensor) for tensor in tensors_in(tree)] == values
    changed = map_tensors(tree, lambda tensor: tensor * 10 if tensor.is_floating_point() else tensor)
    assert type(changed) is type(tree)
    tens = [value if name == "packed" and index else value * 10 for index, value in enumerate(values)]
    assert [float(tensor) for tensor in tensors_in(changed)] == tens
    assert [float(tensor) for tensor in tensors_in(tree)] == values  # the given one stays


def test_containers_are_new() -> None:
    """A model may append to a list that it is given, also to an empty one."""
    tree: dict[str, Any] = {"a": [ONE], "b": [], "c": {}}
    new = cloned(tree)
    new["a"].append(1)
    new["b"].append(1)
    new["c"]["d"] = 1
    assert [len(part) for part in tree.values()] == [1, 0, 0]


def test_clones_are_detached() -> None:
    given = torch.ones(2, requires_grad=True) * 2
    (copy,) = cloned((given,))
    assert copy.grad_fn is None
    copy.zero_()
    assert given.tolist() == [2, 2]


def test_integers_keep_their_dtype() -> None:
    tree = to_dtype([torch.ones(1), torch.ones(1, dtype=torch.int32), torch.ones(1).bool()], torch.float64)
    assert [tensor.dtype for tensor in tree] == [torch.float64, torch.int32, torch.bool]


def test_objects_that_hold_each_other() -> None:
    parent, child = SimpleNamespace(x=ONE), SimpleNamespace(x=TWO)
    parent.child, child.parent = child, parent
    assert [float(tensor) for tensor in tensors_in(parent)] == [1, 2]
    new = map_tensors(parent, lambda tensor: tensor * 10)
    assert (float(new.x), float(new.child.x)) == (10, 20)
    assert new.child.parent is new
    around: list[Any] = [ONE]
    around.append(around)
    assert map_tensors(around, torch.neg)[1][1][0] == -1


def test_many_objects_that_hold_each_other_take_no_time() -> None:
    """Every way through them would be 2 to the 60th."""
    first = last = SimpleNamespace()
    for _ in range(60):
        last.a = last.b = SimpleNamespace(back=last)
        last = last.a
    assert tensors_in([first, ONE]) == [ONE]


def test_objects_without_a_tensor_are_left_alone() -> None:
    """Many of them cannot be copied."""
    lock = threading.Lock()
    tree = [SimpleNamespace(lock=lock), torch.Generator(), open, MappingProxyType({}), Kind.ONE, ONE]
    new = cloned(tree)
    assert all(a is b for a, b in zip(tree[:3], new[:3], strict=True))
    assert new[4] is Kind.ONE


def test_modules_and_functions_are_leaves() -> None:
    layer = nn.Linear(2, 2)
    assert tensors_in([layer, layer.forward, lambda: ONE]) == []
    assert map_tensors([layer], torch.neg)[0] is layer


def test_packed_sequences_stay_packed() -> None:
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    assert isinstance(cloned(packed), PackedSequence)
