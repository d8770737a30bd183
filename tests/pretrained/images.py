"""Real images for the trained networks, prepared as in their training."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .models import MissingWheelError, folder

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation by channel
SVHN = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)


def photos(count: int = 8, *, size: int = 224) -> Tensor:
    """Return crops (count, 3, size, size) of scikit-learn's two photographs, in turns, spread over each of them."""
    try:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
    except ImportError as error:  # scikit-learn reads them with Pillow
        raise MissingWheelError("Pillow reads the photographs: requirements/pretrained.txt") from error
    scaled = []
    for image in images:
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        edge = size * 8 // 7  # 256 for crops of 224
        shape = (edge, edge * x.shape[2] // x.shape[1])
        scaled.append(F.interpolate(x[None], size=shape, mode="bilinear", antialias=True)[0])
    crops = []
    for nth in range(count):
        x = scaled[nth % 2]
        room = torch.tensor(x.shape[1:]) - size
        share = (nth // 2) / max(1, (count + 1) // 2 - 1)
        top, left = int(room[0]) // 2, int(room[1] * share)
        crops.append(x[:, top : top + size, left : left + size])
    return _normalised(torch.stack(crops), IMAGENET)


def svhn_digits() -> tuple[Tensor, Tensor]:
    """Return the four digits that come with the SVHN network, (4, 3, 32, 32), and their classes."""
    files = sorted((folder("ccexam") / "samples").glob("svhn_digit_*.png"))
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingWheelError("Pillow reads the digits: requirements/pretrained.txt") from error
    pixels = []
    for file in files:
        with Image.open(file) as image:
            pixels.append(np.array(image.convert("RGB")))
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return _normalised(x, SVHN), torch.tensor([int(file.stem[-1]) for file in files])


def _normalised(x: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in statistics)
    return (x - mean) / std
