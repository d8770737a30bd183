"""A network and data of one's own, as `xhat study --model my_net:make_model --data my_net:data` takes them."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset, random_split


def make_model(norm: str) -> nn.Module:
    """Return a small convolutional network, with batch norm or without."""

    def block(before: int, after: int) -> nn.Sequential:
        layer = nn.BatchNorm2d(after) if norm == "batch" else nn.Identity()
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), layer, nn.ReLU())

    return nn.Sequential(
        *(block(1, 16), block(16, 32), nn.MaxPool2d(2), block(32, 32)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def data() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's digits, 8×8 pixels, as a training and a test set."""
    images, labels = load_digits(return_X_y=True)
    whole = TensorDataset(
        torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1, torch.tensor(labels)
    )
    train, test = random_split(whole, [1400, len(whole) - 1400], torch.Generator().manual_seed(0))
    return train, test  # type: ignore[return-value]
