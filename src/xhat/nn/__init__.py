"""Layers."""

from xhat.nn._channel_affine import ChannelAffine
from xhat.nn._contiguous import Contiguous
from xhat.nn._standardize import Standardize
from xhat.nn._with_batch_norm import WithBatchNorm

__all__ = ["ChannelAffine", "Contiguous", "Standardize", "WithBatchNorm"]
