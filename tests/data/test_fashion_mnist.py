import gzip
import io
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from xhat.data import fashion_mnist as load_fashion_mnist
from xhat.data import load
from xhat.errors import DataError

ROOT = Path(__file__).parents[2]
SOURCE = Path("/usr/share/datasets/fashion-mnist")
module = sys.modules["xhat.data.fashion_mnist"]  # the function of the same name hides it
needs_source = pytest.mark.skipif(not SOURCE.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
DIGEST = "78b6c73cb153c672f48b9526cbd77e9d2596edb1a85a051e975e90795163246b"


def test_shapes_balance_and_scale():
    data = load_fashion_mnist()
    assert data.train_x.shape == (10_000, 1, 28, 28)
    assert data.test_x.shape == (2_000, 1, 28, 28)
    assert data.train_y.bincount().tolist() == [1000] * 10
    assert data.test_y.bincount().tolist() == [200] * 10
    std, mean = torch.std_mean(data.train_x.double(), correction=0)
    assert abs(mean) < 1e-6
    assert abs(std - 1) < 1e-6


def test_the_digest_is_pinned():
    """It names stored runs and must be the same on every machine."""
    assert load("fashion-mnist").digest == DIGEST


def test_any_prefix_is_mixed():
    """The order is shuffled: the classes of a prefix are near balance, unlike sorted files."""
    counts = load("fashion-mnist").train_y[:1000].bincount(minlength=10)
    assert counts.min() > 60
    assert counts.max() < 140


def test_the_file_is_small_and_carries_its_notice():
    assert module.FILE.stat().st_size < 6e6
    notice = (module.FILE.parent / "NOTICE.md").read_text(encoding="utf-8")
    assert "Copyright © 2017 Zalando SE" in notice
    assert notice.split("\n\n", 1)[1] in (ROOT / "THIRD_PARTY_NOTICES.md").read_text(encoding="utf-8")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


def pickled() -> bytes:
    file = io.BytesIO()
    np.savez(file, train_x=np.array([Bomb()], dtype=object))
    return file.getvalue()


DAMAGES = {
    "one byte changed": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    "cut short": lambda raw: raw[: len(raw) // 2],
    "empty": lambda _: b"",
    "pickled arrays": lambda _: pickled(),
    "a pickle": lambda _: pickle.dumps(Bomb()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_before_it_is_read(damage, tmp_path, monkeypatch):
    copy = tmp_path / "copy.npz"
    copy.write_bytes(damage(module.FILE.read_bytes()))
    monkeypatch.setattr(module, "FILE", copy)
    with pytest.raises(DataError) as caught:
        load_fashion_mnist()
    text = str(caught.value)
    assert str(copy) in text
    assert module.SHA256 in text
    assert "found " in text
    assert "Reinstall xhat" in text
    assert "scripts/build_fashion_mnist.py" in text


def test_pickled_arrays_are_refused_even_with_the_right_hash(tmp_path, monkeypatch):
    copy = tmp_path / "copy.npz"
    copy.write_bytes(pickled())
    monkeypatch.setattr(module, "FILE", copy)
    monkeypatch.setattr(module, "SHA256", module.hashlib.sha256(pickled()).hexdigest())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_fashion_mnist()


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE", tmp_path / "gone.npz")
    with pytest.raises(DataError, match=r"gone\.npz.*found no file.*Reinstall xhat"):
        load_fashion_mnist()


def full_set(prefix):
    images = gzip.decompress((SOURCE / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((SOURCE / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
    return {images[i * 784 : (i + 1) * 784]: label for i, label in enumerate(labels)}


@needs_source
@pytest.mark.parametrize(("part", "prefix"), [("train", "train"), ("test", "t10k")])
def test_each_image_is_one_of_the_full_set_with_its_label(part, prefix):
    full = full_set(prefix)
    with np.load(module.FILE, allow_pickle=False) as arrays:
        images, labels = arrays[f"{part}_x"], arrays[f"{part}_y"]
    assert [full.get(image.tobytes()) for image in images] == labels.tolist()
    assert len({image.tobytes() for image in images}) == len(images)


@needs_source
def test_the_builder_makes_the_same_arrays_again(tmp_path, monkeypatch, capsys):
    """Arrays, not bytes: another zlib may pack them otherwise."""
    out = tmp_path / "again.npz"
    monkeypatch.setattr(sys, "argv", ["build", str(SOURCE), "--out", str(out)])
    runpy.run_path(str(ROOT / "scripts/build_fashion_mnist.py"), run_name="__main__")
    assert "sha256" in capsys.readouterr().out
    with np.load(out, allow_pickle=False) as again, np.load(module.FILE, allow_pickle=False) as shipped:
        assert list(again) == list(shipped) == ["train_x", "train_y", "test_x", "test_y"]
        assert all(np.array_equal(again[key], shipped[key]) for key in again)


def test_the_builder_refuses_another_source(tmp_path, monkeypatch):
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes(4)))
    monkeypatch.setattr(sys, "argv", ["build", str(tmp_path), "--out", str(tmp_path / "x.npz")])
    with pytest.raises(SystemExit, match=r"train-labels-idx1-ubyte\.gz.*expected bad3541b"):
        runpy.run_path(str(ROOT / "scripts/build_fashion_mnist.py"), run_name="__main__")
