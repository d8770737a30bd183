"""Batch normalization for PyTorch, whole: the layer, its reference and the measurements of why it works."""

from importlib import import_module
from typing import Any

from xhat.memory import _from_environment, reuse_memory

_PARTS = (
    "data",
    "dataflow",
    "doctor",
    "functional",
    "landscape",
    "models",
    "nn",
    "reference",
    "report",
    "study",
    "surgery",
)
# Names of the parts that are used often enough to be had without their part.
_FROM = {
    "Diagnosis": "doctor",
    "Finding": "doctor",
    "Recalibration": "surgery",
    "Repair": "doctor",
    "Surgery": "surgery",
    "diagnose": "doctor",
    "repair": "doctor",
    "add_batch_norm": "surgery",
    "convert_group_norm": "surgery",
    "drop_bias": "surgery",
    "fold": "surgery",
    "freeze_": "surgery",
    "recalibrate_": "surgery",
    "remove_batch_norm": "surgery",
    "unfreeze_": "surgery",
    "update_once": "surgery",
    "watch": "doctor",
}

__all__ = ["reuse_memory", *_PARTS, *_FROM]
__version__ = "0.1.0"

_from_environment()


def __getattr__(name: str) -> Any:
    """Import a part at its first use: ``import xhat`` alone does not load torch."""
    if name in _PARTS:
        return import_module(f"xhat.{name}")
    if name in _FROM:
        return getattr(import_module(f"xhat.{_FROM[name]}"), name)
    raise AttributeError(f"module 'xhat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
