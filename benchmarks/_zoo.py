"""Third-party zoos for benchmarks: which architectures, how to build one, which inputs it takes.

Zoos lie in a folder of their own, never in the project's environment:

    .venv/bin/pip install --no-deps --target ZOOS -r requirements/zoos.txt

timm imports torchvision, which would bring another torch. A stub with the names that timm's models import, and
nothing behind them, is written to a temporary folder and put on the path of the process that builds models.
"""

import random
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CANDIDATES, LARGEST = 5, 90_000_000  # architectures looked at in a family; parameters
SIZES = (64, 96, 128, 224, 256, 299, 320, 331, 384, 480)  # pixels, tried in turn

_ANY = """
class Kind(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Kind(name, (), {})
"""
_STUB = {
    "__init__": "from torchvision import transforms",
    "datasets": _ANY,
    "transforms/__init__": _ANY,
    "transforms/functional": _ANY,
    "ops/__init__": _ANY,
    "ops/misc": "from torch import nn\nclass FrozenBatchNorm2d(nn.Module): pass",
}


def put_on_path(zoos: Path) -> None:
    """Make the zoos importable in this process, with a stub in torchvision's place."""
    stub = Path(tempfile.mkdtemp(prefix="torchvision-stub-"))
    for name, text in _STUB.items():
        file = stub / "torchvision" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    sys.path[:0] = [str(stub), str(zoos)]


def names(zoo: str) -> dict[str, list[str]]:
    """Return the architectures of a zoo by family: the file that defines them."""
    families: dict[str, list[str]] = defaultdict(list)
    if zoo == "pytorchcv":
        from pytorchcv.model_provider import _models

        for name, make in _models.items():
            families[make.__module__.rpartition(".")[2]].append(name)
    else:
        import timm
        from timm.models._registry import _model_to_module

        for name in timm.list_models():
            families[_model_to_module[name]].append(name)
    return families


def build(zoo: str, name: str) -> nn.Module:
    """Return an architecture with initial weights, in eval mode."""
    if zoo == "pytorchcv":
        from pytorchcv.model_provider import get_model

        audio = any(kind in name for kind in ("jasper", "quartznet"))
        model = get_model(name, **({"from_audio": False} if audio else {})).eval()
        features = getattr(model, "features", None)
        if isinstance(getattr(features, "final_pool", None), nn.AvgPool2d):
            # Its fixed size is all that asks for inputs of 224 pixels, which take twelve times as long as 64.
            features.final_pool = nn.AdaptiveAvgPool2d(1)
        for module_name, buffer in model.named_buffers():
            if module_name.endswith(
                ".index"
            ):  # CondenseNet's choice of channels: all zero until it is trained
                buffer.copy_(torch.randperm(buffer.numel()) % buffer.numel())
        return model
    import timm

    return timm.create_model(name, pretrained=False).eval()


def chosen(zoo: str, *, seed: int, per_family: int) -> list[str]:
    """Return the smallest architectures with BN of each family, among some drawn at random."""
    drawn = random.Random(seed)
    found = []
    for _, family in sorted(names(zoo).items()):
        sizes = []
        for name in drawn.sample(sorted(family), min(CANDIDATES, len(family))):
            norms, parameters = _size(zoo, name)
            if norms and parameters <= LARGEST:
                sizes.append((parameters, name))
        found += [name for _, name in sorted(sizes)[:per_family]]
    return found


def _size(zoo: str, name: str) -> tuple[int, int]:
    """Return the numbers of BN layers and of parameters; (0, 0) for what cannot be built."""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = build(zoo, name)
        except Exception:
            continue
        norms = sum(isinstance(module, _BatchNorm) for module in model.modules())
        return norms, sum(x.numel() for x in model.parameters())
    return 0, 0


def inputs(model: nn.Module, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return the smallest inputs that the model takes, two samples."""
    last: Exception | None = None
    for tried in _candidates(model, dtype):
        try:
            with torch.no_grad():
                model(*tried)
        except Exception as error:  # whatever a zoo's model raises
            last = error
        else:
            return tried
    raise ValueError(f"no input found: {last}")


def _candidates(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def images(channels: int, *size: int) -> Tensor:
        return torch.randn(2, channels, *size, dtype=dtype)

    size = getattr(model, "in_size", None)
    if isinstance(size, int):  # pytorchcv's networks for speech
        yield images(size, 160), torch.tensor([160, 128])
        return
    own = [size] if isinstance(size, tuple) else []
    small = [edges for edges in own if max(edges) <= 128]
    for edges in (*small, *((edge, edge) for edge in SIZES), *own):
        yield (images(3, *edges),)
    yield (images(1, 224, 224),)
    yield images(3, 128, 128), images(3, 128, 128)


def version(zoos: Path, zoo: str) -> str:
    """Return the version of an installed zoo."""
    (found,) = (x.version for x in metadata.distributions(path=[str(zoos)]) if x.name == zoo)
    return found
