"""Layers."""

from xhat.nn._standardize import Standardize

__all__ = ["Standardize"]
