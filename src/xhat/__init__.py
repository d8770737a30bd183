"""Batch normalization for PyTorch, whole: the layer, its reference and the measurements of why it works."""

from importlib import import_module
from types import ModuleType

from xhat.memory import _from_environment, reuse_memory

__all__ = ["data", "functional", "landscape", "models", "nn", "reference", "report", "reuse_memory", "study"]
__version__ = "0.1.0"

_from_environment()


def __getattr__(name: str) -> ModuleType:
    """Import a part at its first use: ``import xhat`` alone does not load torch."""
    if name in __all__:
        return import_module(f"xhat.{name}")
    raise AttributeError(f"module 'xhat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
