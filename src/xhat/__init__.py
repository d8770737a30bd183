"""Batch normalization for PyTorch, whole: the layer, its reference and the measurements of why it works."""

__version__ = "0.1.0"
