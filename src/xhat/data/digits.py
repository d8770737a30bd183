"""scikit-learn's handwritten digits, small enough for studies of seconds."""

import numpy as np
import torch

from xhat.data._pixels import standardise
from xhat.data._tensors import TensorData


def digits() -> TensorData:
    """Return scikit-learn's 1797 digits (N, 1, 8, 8), standardised, split 80/20 by class with a fixed seed.

    They come with the installed scikit-learn ("Optical Recognition of Handwritten Digits", UCI).
    """
    from sklearn.datasets import load_digits  # here, since it takes a second to import
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = images.reshape(-1, 1, 8, 8).astype(np.uint8)  # whole numbers 0 to 16
    train, test, train_y, test_y = train_test_split(
        pixels, labels.astype(np.int64), test_size=0.2, stratify=labels, random_state=0
    )
    train_x, test_x = standardise("digits", train, test, top=16)
    return TensorData(
        "digits", train_x, torch.from_numpy(train_y), test_x, torch.from_numpy(test_y), classes=10
    )
