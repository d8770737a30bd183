"""The class-balanced subset of Fashion-MNIST that xhat carries (arXiv 1708.07747, MIT licence)."""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch

from xhat.data._pixels import standardise
from xhat.data._tensors import TensorData
from xhat.errors import DataError

FILE = Path(__file__).parent / "files" / "fashion-mnist-subset.npz"
SHA256 = "5a9513f95103da5d74933017d0341e15adf0e2105a530f90553b8279cd8e51fb"


def fashion_mnist() -> TensorData:
    """Return 10,000 training and 2,000 test images (N, 1, 28, 28), standardised, in 10 balanced classes.

    The images are in an order shuffled once, when ``scripts/build_fashion_mnist.py`` made the file.

    Raises:
        DataError: the file is missing or is not the one that was built.
    """
    try:
        raw = FILE.read_bytes()
    except FileNotFoundError:
        raise _damaged("no file") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256:
        raise _damaged(found)
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        train_x, test_x = standardise("fashion-mnist", arrays["train_x"][:, None], arrays["test_x"][:, None])
        train_y, test_y = (torch.from_numpy(arrays[key].astype(np.int64)) for key in ("train_y", "test_y"))
    return TensorData("fashion-mnist", train_x, train_y, test_x, test_y, classes=10)


def _damaged(found: str) -> DataError:
    return DataError(
        f"{FILE}: expected sha256 {SHA256}, found {found}. Other images would give other results under the "
        "same name. Reinstall xhat, or rebuild the file with scripts/build_fashion_mnist.py."
    )
