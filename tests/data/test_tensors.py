import pickle
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xhat.data import TensorData, standardise
from xhat.errors import DataError, UsageError


def make(train_y=(0, 1, 2, 0, 1, 2, 0, 0), test_y=(2, 1, 0), sample=(1, 4, 6), **changes):
    def images(n, start):
        return start + torch.arange(n * int(np.prod(sample)), dtype=torch.float32).reshape(n, *sample)

    values = {
        "name": "toy",
        "train_x": images(len(train_y), 0),
        "train_y": torch.as_tensor(train_y),
        "test_x": images(len(test_y), 1000),
        "test_y": torch.as_tensor(test_y),
        "classes": 3,
    }
    return TensorData(**(values | changes))


def test_the_digest_is_sha256_over_dtypes_shapes_and_bytes():
    """A digest names stored runs: it may not change from one version to the next."""
    data = make()
    expected = sha256(b"torch.float32 (8, 1, 4, 6)\n" + data.train_x.numpy().tobytes())
    expected.update(b"torch.int64 (8,)\n" + data.train_y.numpy().tobytes())
    expected.update(b"torch.float32 (3, 1, 4, 6)\n" + data.test_x.numpy().tobytes())
    expected.update(b"torch.int64 (3,)\n" + data.test_y.numpy().tobytes())
    assert data.digest == expected.hexdigest()


@pytest.mark.parametrize("field", ["train_x", "train_y", "test_x", "test_y"])
def test_the_digest_changes_with_one_element(field):
    tensor = getattr(make(), field).clone()
    tensor.view(-1)[1] = 0 if tensor.view(-1)[1] else 2
    changed = make(**{field: tensor})
    assert changed.digest != make().digest
    assert changed != make()


def test_equal_tensors_make_equal_data():
    strided = make(train_x=make().train_x.transpose(0, 1).contiguous().transpose(0, 1))
    assert strided == make()
    assert hash(strided) == hash(make())
    assert pickle.loads(pickle.dumps(make())) == make()


def test_the_digest_knows_shapes():
    assert make().flat().digest != make().digest


def test_repr_shows_shapes_and_not_the_tensors():
    assert repr(make()).startswith(
        "TensorData('toy', train (8, 1, 4, 6), test (3, 1, 4, 6), 3 classes, digest "
    )
    assert len(repr(make())) < 120


WRONG = {
    "float64 inputs": ({"train_x": make().train_x.double()}, "torch.float64"),
    "int32 targets": ({"test_y": make().test_y.int()}, "torch.int32"),
    "other lengths": ({"train_x": torch.zeros(2, 1, 4, 6)}, r"\(2, 1, 4, 6\)"),
    "no feature dimension": ({"test_x": torch.zeros(3)}, r"inputs \(3,\)"),
    "other sample shapes": ({"test_x": torch.zeros(3, 1, 4, 4)}, r"\(1, 4, 6\).*\(1, 4, 4\)"),
    "class too high": ({"test_y": torch.tensor([0, 1, 3])}, "targets 0 to 3; needed are 0 to 2"),
    "negative class": ({"test_y": torch.tensor([0, 1, -1])}, "targets -1 to 1"),
    "empty": ({"test_y": torch.zeros(0).long()}, "no samples"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_tensors_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        make(**changes)


SUBSETS = {  # count -> kept places among the classes 0 1 2 0 1 2 0 0
    1: [0],
    3: [0, 1, 2],
    4: [0, 1, 2, 3],
    6: [0, 1, 2, 3, 4, 5],
    7: [0, 1, 2, 3, 4, 5, 6],
    8: [0, 1, 2, 3, 4, 5, 6, 7],
}


@pytest.mark.parametrize(("count", "kept"), SUBSETS.items())
def test_a_subset_is_balanced_and_in_order(count, kept):
    data = make()
    subset = data.subset(count)
    assert torch.equal(subset.train_x, data.train_x[kept])
    assert torch.equal(subset.train_y, data.train_y[kept])
    assert torch.equal(subset.test_x, data.test_x)
    assert subset.name == "toy"


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.data())
def test_subsets_are_nested_and_as_balanced_as_can_be(labels, draw):
    data = make(test_y=labels, sample=(1,))
    count = draw.draw(st.integers(1, len(labels)))
    subset = data.subset(test=count)
    places = set(subset.test_x.flatten().tolist())
    assert len(places) == count
    if count > 1:
        assert set(data.subset(test=count - 1).test_x.flatten().tolist()) < places
    there, kept = data.test_y.bincount(minlength=3), subset.test_y.bincount(minlength=3)
    fullest = kept.max()
    assert all(k == t or k >= fullest - 1 for k, t in zip(kept, there, strict=True))


@pytest.mark.parametrize(("part", "count"), [("train", 0), ("train", 9), ("test", -1), ("test", 4)])
def test_a_subset_larger_than_the_data_is_refused(part, count):
    with pytest.raises(UsageError, match=rf"{count} {part} samples asked for; 1 to \d can be"):
        make().subset(**{part: count})


def test_pooling_averages_squares():
    pooled = make().pooled(2)
    assert pooled.train_x.shape == (8, 1, 2, 3)
    assert pooled.train_x[0, 0, 0, 0] == (0 + 1 + 6 + 7) / 4
    assert make().pooled(1) == make()


@pytest.mark.parametrize("factor", [0, 3, 4])
def test_pooling_that_would_lose_pixels_is_refused(factor):
    with pytest.raises(UsageError, match=rf"\(1, 4, 6\) cannot be pooled by {factor}"):
        make().pooled(factor)


def test_rows_cannot_be_pooled():
    with pytest.raises(UsageError, match=r"\(24,\) cannot be pooled"):
        make().flat().pooled(2)


@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_standardise_agrees_with_torch(channels, seed):
    generator = np.random.default_rng(seed)
    train, test = (generator.integers(0, 256, (n, channels, 5, 5), dtype=np.uint8) for n in (6, 2))
    train_x, test_x = standardise("toy", train, test)
    scaled = torch.from_numpy(train).double() / 255
    std, mean = torch.std_mean(scaled, dim=(0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(train_x, ((scaled - mean) / std).float())
    torch.testing.assert_close(test_x, ((torch.from_numpy(test).double() / 255 - mean) / std).float())


def test_a_constant_channel_is_refused():
    pixels = np.zeros((3, 2, 4, 4), dtype=np.uint8)
    pixels[0, 0] = 9
    with pytest.raises(DataError, match="channel 1 have the value 0"):
        standardise("toy", pixels, pixels)
