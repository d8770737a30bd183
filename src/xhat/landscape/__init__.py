"""Measurements of the loss landscape and of layer distributions, on any model, which is left unchanged."""

from xhat.landscape.along_gradient import AlongGradient, along_gradient
from xhat.landscape.recording import Position, Recording, record

__all__ = ["AlongGradient", "Position", "Recording", "along_gradient", "record"]
