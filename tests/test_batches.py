"""A batch reaches the model as users mean it, and what cannot is said with the way out."""

from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from xhat.batches import (
    arguments_of,
    can_repeat,
    describe,
    device_of,
    each_batch,
    run_batch,
    target_of,
    to_device,
)
from xhat.errors import DataError, ModelError, UsageError

X, Y = torch.randn(4, 3), torch.arange(4)
Pair = namedtuple("Pair", ["image", "label"])
PACKED = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])

BATCHES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "tensor": (X, (X,), {}),
    "pair": ((X, Y), (X,), {}),
    "list": ([X, Y], (X,), {}),
    "named": (Pair(X, Y), (X,), {}),
    "one": ((X,), (X,), {}),
    "three": ((X, Y, "path"), (X,), {}),
    "several-inputs": (((X, Y), Y), (X, Y), {}),
    "dict": ({"a": X, "b": Y}, (), {"a": X, "b": Y}),
    "ordered": (OrderedDict(a=X), (), {"a": X}),
    "dict-and-target": (({"a": X}, Y), (), {"a": X}),
    "packed": ((PACKED, Y), (PACKED,), {}),
    "packed-alone": (PACKED, (PACKED,), {}),
}


def same(a: Any, b: Any) -> bool:
    return a is b


@pytest.mark.parametrize("name", BATCHES)
def test_arguments(name: str) -> None:
    batch, args, kwargs = BATCHES[name]
    found, named = arguments_of(batch)
    assert len(found) == len(args)
    assert all(map(same, found, args))
    assert named.keys() == kwargs.keys()
    assert all(named[key] is kwargs[key] for key in kwargs)


def test_an_empty_batch() -> None:
    with pytest.raises(DataError, match="empty"):
        arguments_of(())


@pytest.mark.parametrize(
    ("batch", "target"),
    [
        (X, None),
        ((X, Y), Y),
        ([X, Y], Y),
        ((X,), None),
        ((X, "a"), None),
        ({"x": X}, None),
        ((X, {"y": Y}), None),
    ],
)
def test_targets(batch: Any, target: Tensor | None) -> None:
    assert target_of(batch) is target


def test_run() -> None:
    layer = nn.Linear(3, 2)
    assert torch.equal(run_batch(layer, (X, Y)), layer(X))
    assert torch.equal(run_batch(layer, {"input": X}), layer(X))
    assert run_batch(layer, {"image": X}, lambda model, batch: model(batch["image"])).shape == (4, 2)


def test_a_batch_that_does_not_fit_is_described() -> None:
    with pytest.raises(ModelError, match=r"dict of image: tensor \(4, 3\).*forward=") as caught:
        run_batch(nn.Linear(3, 2), {"image": X})
    assert isinstance(caught.value.__cause__, TypeError)


def test_what_the_model_raises_itself_is_told_with_the_batch() -> None:
    with pytest.raises(
        ModelError,
        match=r"Linear failed in training mode on batch 3 \(tensor \(4, 3\)\): RuntimeError.*shapes",
    ) as caught:
        run_batch(nn.Linear(5, 2), X, place=3)
    assert "forward=" not in str(caught.value)
    with pytest.raises(ModelError, match=r"batch 0 .*KeyError: 'image'") as caught:
        run_batch(nn.Linear(3, 2), {"input": X}, lambda model, batch: model(batch["image"]))
    assert "forward=" not in str(caught.value)


class Writing(nn.Module):
    """Writes into its input."""

    def forward(self, x: Any, and_more: Any = None) -> Any:
        tensor = x.held if isinstance(x, Held) else x
        return tensor.mul_(2)


@dataclass
class Held:
    held: Tensor
    label: str = ""


def by_hand(model: nn.Module, batch: Any) -> Any:
    args, kwargs = arguments_of(batch)
    return model(*args, **kwargs)


@pytest.mark.parametrize(
    "pack",
    [lambda x: x, lambda x: (x, Y), lambda x: {"x": x}, Held],
    ids=["tensor", "pair", "dict", "object"],
)
@pytest.mark.parametrize("forward", [None, by_hand])
def test_a_model_that_writes_into_its_input_does_not_change_the_batch(pack: Any, forward: Any) -> None:
    x = torch.ones(4, 3)
    assert torch.equal(run_batch(Writing(), pack(x), forward), torch.full((4, 3), 2.0))
    assert torch.equal(x, torch.ones(4, 3))


def test_objects_and_packed_sequences_are_moved() -> None:
    moved = to_device({"a": Held(X, "name")}, torch.device("meta"))["a"]
    assert (moved.held.device.type, moved.label) == ("meta", "name")
    assert to_device((PACKED,), torch.device("cpu"))[0].batch_sizes.device.type == "cpu"


def test_device() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")
    moved = to_device({"a": [X, (Y, None)]}, torch.device("meta"))
    assert {moved["a"][0].device, moved["a"][1][0].device} == {torch.device("meta")}


def endless() -> Iterator[Tensor]:
    while True:
        yield X


def test_limits() -> None:
    assert len(list(each_batch([X, X, X], limit=2))) == 2
    assert len(list(each_batch([X, X, X], limit=5))) == 3
    assert len(list(each_batch([X, X, X]))) == 3
    assert len(list(each_batch(endless(), limit=3))) == 3
    source = iter([X, Y])
    assert list(each_batch(source, limit=1)) == [X]
    assert next(source) is Y  # no batch is drawn for nothing


@pytest.mark.parametrize("batches", [X, 3, nn.Linear(2, 2)])
def test_what_is_no_collection_of_batches(batches: Any) -> None:
    with pytest.raises(UsageError, match="iterable"):
        next(each_batch(batches))


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_that_are_none(limit: int) -> None:
    with pytest.raises(UsageError, match="at least one"):
        next(each_batch([X], limit=limit))


@pytest.mark.parametrize("batches", [[], iter([])])
def test_nothing(batches: Any) -> None:
    with pytest.raises(DataError, match="no batches"):
        next(each_batch(batches))


def test_what_can_be_gone_through_again() -> None:
    assert can_repeat([X])
    assert can_repeat(DataLoader(TensorDataset(X, Y), batch_size=2))
    assert not can_repeat(iter([X]))
    assert not can_repeat(endless())


def test_descriptions() -> None:
    assert describe((X, {"a": Y}, "text")) == "tuple of tensor (4, 3), dict of a: tensor (4,), str"
