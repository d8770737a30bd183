"""Batch normalization for PyTorch, whole: the layer, its reference and the measurements of why it works."""

from xhat.memory import _from_environment, reuse_memory

__all__ = ["reuse_memory"]
__version__ = "0.1.0"

_from_environment()
