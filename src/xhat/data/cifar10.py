"""CIFAR-10 in its binary layout, from a folder that the user names."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from xhat.data._pixels import Pixels, standardise
from xhat.data._tensors import TensorData
from xhat.errors import DataError

RECORD = 1 + 3 * 32 * 32  # bytes: the label, then red, green and blue planes
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
REMEDY = "Unpack the binary version from https://www.cs.toronto.edu/~kriz/cifar.html again."


def cifar10(folder: str | Path) -> TensorData:
    """Return the images (N, 3, 32, 32), standardised per channel, in 10 classes.

    Args:
        folder: where ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin`` lie, or the folder
            above their ``cifar-10-batches-bin``. Files may hold fewer records than the original 10,000.

    Raises:
        DataError: a file is missing, is not a whole number of records, or holds a label above 9.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    place = _place(Path(folder))
    parts = [_read(place / name) for name in TRAIN]
    train = np.concatenate([images for images, _ in parts])
    train_y = np.concatenate([labels for _, labels in parts])
    test, test_y = _read(place / TEST)
    train_x, test_x = standardise("cifar10", train, test)
    return TensorData(
        "cifar10", train_x, torch.from_numpy(train_y), test_x, torch.from_numpy(test_y), classes=10
    )


def _place(folder: Path) -> Path:
    """Return the folder that holds the files: the given one or the one inside it."""
    inner = folder / "cifar-10-batches-bin"
    place = inner if inner.is_dir() else folder
    missing = [name for name in (*TRAIN, TEST) if not (place / name).is_file()]
    if missing:
        python = (place / "data_batch_1").exists() or (folder / "cifar-10-batches-py").exists()
        hint = "The Python version there is pickled, and xhat unpickles nothing. " if python else ""
        raise DataError(
            f"{place}: expected CIFAR-10's six binary files, missing are {', '.join(missing)}. {hint}{REMEDY}"
        )
    return place


def _read(path: Path) -> tuple[Pixels, NDArray[np.int64]]:
    """Return the images (N, 3, 32, 32) and the labels (N,) of one file."""
    raw = np.fromfile(path, dtype=np.uint8)
    if len(raw) == 0 or len(raw) % RECORD:
        raise DataError(
            f"{path}: expected one or more records of {RECORD} bytes, found {len(raw)} bytes. The file is "
            f"cut short or has another layout. {REMEDY}"
        )
    records = raw.reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        at = int((labels > 9).argmax())
        raise DataError(
            f"{path}: expected labels 0 to 9, found {labels[at]} in record {at}. The file is damaged or "
            f"is not CIFAR-10 (CIFAR-100 has two label bytes). {REMEDY}"
        )
    return records[:, 1:].reshape(-1, 3, 32, 32), labels
