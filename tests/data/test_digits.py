import pytest
import torch

from xhat.data import DATA, digits, load
from xhat.errors import UsageError


def test_shapes_classes_and_scale():
    data = load("digits")
    assert data.train_x.shape == (1437, 1, 8, 8)
    assert data.test_x.shape == (360, 1, 8, 8)
    assert data.classes == 10
    std, mean = torch.std_mean(data.train_x.double(), correction=0)
    assert abs(mean) < 1e-6
    assert abs(std - 1) < 1e-6


def test_the_split_is_stratified():
    data = load("digits")
    train, test = data.train_y.bincount(), data.test_y.bincount()
    assert ((test / (train + test) - 0.2).abs() < 0.005).all()


def test_no_image_is_in_both_parts():
    train, test = (
        {x.numpy().tobytes() for x in part} for part in (load("digits").train_x, load("digits").test_x)
    )
    assert not train & test


def test_two_loads_are_equal():
    assert digits() == load("digits")


def test_load_keeps_what_it_loaded(tmp_path):
    assert load("digits") is load("digits")
    assert load("digits") == load("digits", folder=tmp_path)


def test_names():
    assert list(DATA) == ["fashion-mnist", "digits"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion_mnist", r"unknown data 'fashion_mnist'\. Did you mean fashion-mnist\?"),
        ("digit", r"Did you mean digits\?"),
        ("imagenet", r"There are: cifar10:FOLDER, digits, fashion-mnist, module:callable\."),
        ("cifar10", r"cifar10 needs the folder of its files"),
        ("cifar10:", r"cifar10 needs the folder of its files"),
    ],
)
def test_unknown_names_are_told_apart(name, message):
    with pytest.raises(UsageError, match=message):
        load(name)
