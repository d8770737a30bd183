import logging
import random
import sys
from itertools import count
from textwrap import dedent

import numpy as np
import pytest
import torch

from xhat.data import load, user_data
from xhat.errors import DataError, UsageError

HEAD = """
import itertools
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split

X = torch.arange(40.).reshape(20, 2)
Y = torch.arange(20) % 2

def item(_, i):
    return X[i], int(Y[i])
"""
numbers = count()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module with a fresh name and return the reference of its callable ``data``."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)

    def write_module(body):
        name = f"users_data_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(HEAD + dedent(body))
        return f"{name}:data"

    return write_module


def returning(expression):
    return f"def data():\n    return {expression}\n"


SINGLE = {
    "two tensors": "X, Y",
    "a list of two tensors": "[X, Y]",
    "numpy arrays": "X.double().numpy(), Y.int().numpy()",
    "tensors of other widths": "X.double(), Y.to(torch.uint8)",
    "tensors with gradients": "X.clone().requires_grad_(), Y",
    "TensorDataset": "TensorDataset(X, Y)",
    "Dataset of items": "type('D', (Dataset,), {'__len__': lambda s: 20, '__getitem__': item})()",
    "Dataset without length": "type('D', (Dataset,), {'__getitem__': lambda s, i: (X[i], Y[i])})()",
    "IterableDataset": "type('D', (IterableDataset,), {'__iter__': lambda s: iter(zip(X, Y))})()",
    "DataLoader": "DataLoader(TensorDataset(X, Y), batch_size=6)",
    "list of batches": "[(X[:8], Y[:8]), (X[8:], Y[8:])]",
    "generator of batches": "((X[i:i + 5], Y[i:i + 5]) for i in range(0, 20, 5))",
    "list of samples": "[(x.numpy(), int(y)) for x, y in zip(X, Y)]",
}


@pytest.mark.parametrize("expression", SINGLE.values(), ids=SINGLE)
def test_one_part_is_split_80_to_20(write, expression):
    reference = write(returning(expression))
    data = user_data(reference)
    assert data.name == reference
    assert data.train_x.shape == (16, 2)
    assert data.test_x.shape == (4, 2)
    assert data.classes == 2
    both = torch.cat([data.train_x, data.test_x])
    assert sorted(both[:, 0].tolist()) == list(range(0, 40, 2))
    assert torch.equal(both[:, 0].long() // 2 % 2, torch.cat([data.train_y, data.test_y]))
    assert not data.train_x.requires_grad
    assert data == user_data(reference)


PAIRS = {
    "tensors": "(X[:15], Y[:15]), (X[15:], Y[15:])",
    "data sets": "TensorDataset(X[:15], Y[:15]), TensorDataset(X[15:], Y[15:])",
    "loaders": "tuple(DataLoader(TensorDataset(X[s], Y[s]), 4) for s in (slice(15), slice(15, 20)))",
    "a list of loaders": "[DataLoader(TensorDataset(X[s], Y[s]), 4) for s in (slice(15), slice(15, 20))]",
    "data set and loader": "TensorDataset(X[:15], Y[:15]), DataLoader(TensorDataset(X[15:], Y[15:]))",
}


@pytest.mark.parametrize("expression", PAIRS.values(), ids=PAIRS)
def test_a_pair_is_train_and_test(write, expression):
    data = user_data(write(returning(expression)))
    assert torch.equal(data.train_x, torch.arange(30.0).reshape(15, 2))
    assert torch.equal(data.test_x, torch.arange(30.0, 40).reshape(5, 2))


def test_random_split_is_a_pair(write):
    data = user_data(write(returning("random_split(TensorDataset(X, Y), [0.5, 0.5])")))
    assert len(data.train_y) == len(data.test_y) == 10


def test_a_shuffling_loader_gives_the_same_samples_and_leaves_the_generators(write):
    reference = write(
        """
        import random
        def data():
            noise = torch.randn(20, 1) + float(np.random.rand()) + random.random()
            return DataLoader(TensorDataset(X + noise, Y), batch_size=4, shuffle=True)
        """
    )
    states = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
    first = user_data(reference, limit=10)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (repr(np.random.get_state()), random.getstate())  # noqa: NPY002
    torch.rand(1)
    assert user_data(reference, limit=10) == first


def test_an_endless_loader_is_read_little_further_than_the_limit(write, caplog):
    reference = write("def data():\n    return ((X, Y) for _ in itertools.count())\n")
    data = user_data(reference, limit=50)
    assert len(data.train_y) + len(data.test_y) == 50
    assert "50 samples of a longer stream are used" in caplog.text


SORTED = {
    "tensors": "X, Y.sort().values",
    "Dataset": "torch.utils.data.Subset(TensorDataset(X, Y.sort().values), range(20))",
}


@pytest.mark.parametrize("expression", SORTED.values(), ids=SORTED)
def test_a_set_sorted_by_class_is_sampled_not_cut(write, caplog, expression):
    data = user_data(write(returning(expression)), limit=10)
    assert len(data.train_y) + len(data.test_y) == 10
    assert set(data.train_y.tolist()) == {0, 1}
    assert "10 samples of 20 are used" in caplog.text


def test_nothing_is_logged_when_all_samples_are_used(write, caplog):
    user_data(write(returning("DataLoader(TensorDataset(X, Y), batch_size=4)")), limit=20)
    assert not caplog.records


def test_pixels_are_scaled_and_the_log_says_so(write, caplog):
    caplog.set_level(logging.INFO)
    images = "torch.full((20, 1, 2, 2), 51, dtype=torch.uint8), Y"
    assert (user_data(write(returning(images))).train_x == 0.2).all()
    assert "divided by 255" in caplog.text


def test_a_class_that_the_cut_left_out_is_no_error(write):
    assert user_data(write(returning("[(X, Y * 2)]")), limit=15).classes == 3


REFUSED = {
    "a number": ("3", r"gave a int\. Needed are two tensors"),
    "None": ("None", r"gave a NoneType"),
    "dict batches": ("[{'x': X, 'y': Y}]", r"gave a dict of 2, not an \(input, class\)"),
    "tensor batches": ("[X, X, X]", r"gave a Tensor, not an \(input, class\)"),
    "triples": ("TensorDataset(X, Y, Y)", r"gave a tuple of 3"),
    "PIL-like input": ("[(object(), 1)]", r"gave a object as an input.*ToTensor"),
    "str class": ("[(X[0], 'cat')]", r"gave a str as a class"),
    "regression": ("X, Y.float()", r"targets are torch\.float32; needed are whole numbers"),
    "bool classes": ("X, Y.bool()", r"targets are torch\.bool"),
    "negative classes": ("X, Y - 1", r"targets are as low as -1"),
    "classes from 1": ("X, Y + 1", r"classes run to 2, but only 2 of them occur and 0 does not"),
    "one-hot": ("X, torch.eye(2)[Y]", r"targets of shape \(20, 2\).*argmax"),
    "column of classes": ("X, Y[:, None]", r"targets of shape \(20, 1\).*squeeze"),
    "scalars": ("X[:, 0], Y", r"inputs of shape \(20,\)"),
    "other lengths": ("X, Y[:3]", r"inputs of shape \(20, 2\) with targets of shape \(3,\)"),
    "shapes differ": (
        "[(torch.ones(2, 3), Y[:2]), (torch.ones(2, 4), Y[:2])]",
        r"sample 0 is \(3,\).*sample 2 is \(4,\)",
    ),
    "dtypes differ": (
        "[(X, Y), (X.byte(), Y)]",
        r"sample 0 is \(2,\) torch\.float32, sample 20 is \(2,\) torch\.uint8",
    ),
    "shapes differ between parts": ("(X, Y), (X[:, :1], Y)", r"\(2,\), a test sample \(1,\)"),
    "empty list": ("[]", r"holds no samples"),
    "empty data set": ("TensorDataset(X[:0], Y[:0])", r"inputs of shape \(0, 2\)"),
    "empty test": ("(X, Y), []", r"\(test\) holds no samples"),
    "NaN": ("X / X, Y", r"1 of 40 input values are NaN or infinite"),
    "infinite": ("torch.where(X > 35, torch.inf, X), Y", r"4 of 40 input values"),
    "too large for float32": ("X.double() * 1e38, Y", r"36 of 40 input values"),
    "token ids": ("X.long(), Y", r"inputs are torch\.int64; needed are floats, or uint8"),
    "a single class": ("X, Y * 0", r"all training samples are of class 0"),
    "a single class in train": ("(X[::2], Y[::2]), (X, Y)", r"all training samples are of class 0"),
    "one sample": ("X[:1], Y[:1]", r"a single sample cannot be split"),
}


@pytest.mark.parametrize(("expression", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_named(write, expression, message):
    reference = write(returning(expression))
    with pytest.raises(DataError, match=message) as caught:
        user_data(reference)
    assert reference in str(caught.value)


def test_a_failure_while_reading_shows_the_users_frames_only(write):
    reference = write(
        """
        class Broken(Dataset):
            def __len__(self):
                return 20
            def __getitem__(self, i):
                return X[i], Y[i + 100]
        def data():
            return DataLoader(Broken(), batch_size=4)
        """
    )
    with pytest.raises(DataError, match="IndexError") as caught:
        user_data(reference)
    text = str(caught.value)
    assert "return X[i], Y[i + 100]" in text
    assert "xhat/data" not in text
    assert "torch/utils" not in text


FAILING = {
    "def data(root):\n    return X, Y\n": r"missing 1 required positional argument: 'root'",
    "def data():\n    raise SystemExit(3)\n": r"SystemExit: 3",
}


@pytest.mark.parametrize(("body", "message"), FAILING.items())
def test_a_callable_that_fails_is_told(write, body, message):
    with pytest.raises(DataError, match=message):
        user_data(write(body))


def test_a_limit_below_two_is_refused(write):
    with pytest.raises(UsageError, match="limit is 1"):
        user_data(write(returning("X, Y")), limit=1)


def test_load_takes_users_data_and_keeps_them(write, tmp_path):
    reference = write("calls = []\ndef data():\n    calls.append(1)\n    return X, Y\n")
    assert load(reference) is load(reference, folder=tmp_path)
    assert sys.modules[reference.partition(":")[0]].calls == [1]
