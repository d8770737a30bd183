import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xhat.data import cifar10, load
from xhat.errors import DataError

NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def records(count, seed):
    """Random records in CIFAR-10's binary layout."""
    made = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    made[:, 0] = np.arange(count) % 10
    return made


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(NAMES):
        records(4, seed).tofile(tmp_path / name)
    return tmp_path


def test_files_are_read_in_order(folder):
    data = cifar10(folder)
    assert data.train_x.shape == (20, 3, 32, 32)
    assert data.test_x.shape == (4, 3, 32, 32)
    assert data.train_y.tolist() == [0, 1, 2, 3] * 5
    assert data.classes == 10


def test_planes_are_red_green_blue_by_rows(folder):
    """Undoing the standardisation gives the bytes of the file back."""
    raw = np.concatenate([records(4, seed)[:, 1:] for seed in range(5)]).reshape(-1, 3, 32, 32)
    mean = raw.mean(axis=(0, 2, 3), dtype=np.float64).reshape(3, 1, 1)
    std = raw.std(axis=(0, 2, 3), dtype=np.float64).reshape(3, 1, 1)
    expected = torch.from_numpy((raw - mean) / std).float()
    torch.testing.assert_close(cifar10(folder).train_x, expected)


def test_the_inner_folder_is_found(folder):
    inner = folder / "cifar-10-batches-bin"
    inner.mkdir()
    for name in NAMES:
        (folder / name).rename(inner / name)
    assert cifar10(folder) == cifar10(inner)


def test_load_takes_absolute_and_relative_folders(folder):
    absolute = load(f"cifar10:{folder}")
    assert absolute == load(f"cifar10:{folder.name}", folder=folder.parent) == cifar10(folder)


def test_missing_files_are_listed(folder):
    (folder / NAMES[1]).unlink()
    (folder / NAMES[5]).unlink()
    with pytest.raises(DataError, match=r"missing are data_batch_2\.bin, test_batch\.bin\. Unpack") as caught:
        cifar10(folder)
    assert str(folder) in str(caught.value)


def test_the_python_version_is_named(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="unpickles nothing"):
        cifar10(tmp_path)


DAMAGES = {
    "cut short": (lambda raw: raw[:-1], r"records of 3073 bytes, found 12291 bytes"),
    "empty": (lambda raw: raw[:0], r"found 0 bytes"),
    "label 10": (lambda raw: raw[:3073] + b"\x0a" + raw[3074:], r"labels 0 to 9, found 10 in record 1"),
}


@pytest.mark.parametrize("name", [NAMES[2], NAMES[5]])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(folder, name, damage, message):
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        cifar10(folder)
    assert str(path) in str(caught.value)
    assert "Unpack the binary version" in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.binary(max_size=64), st.integers(0, 2))
def test_any_bytes_load_or_raise_data_error(folder, tail, whole):
    (folder / NAMES[0]).write_bytes(records(whole, 7).tobytes() + tail)
    if whole and not tail:
        assert len(cifar10(folder).train_x) == 16 + whole
    else:
        with pytest.raises(DataError, match="data_batch_1"):
            cifar10(folder)
