"""Modules as users write them, put into a folder under names that no other test takes."""

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

_numbers = count()

# A network for 8×8 digits; its normalisation layer draws random numbers when it is made.
NETWORK = """
import torch
from torch import nn


class Norm(nn.BatchNorm1d):
    def __init__(self, units):
        super().__init__(units)
        self.drawn = torch.rand(3)


def make_model(norm):
    layer = Norm(16) if norm == "batch" else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), layer, nn.ReLU(), nn.Linear(16, 10))
"""

DATA = """
import torch


def make_data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 10
    x = torch.randn(10, 64, generator=generator)[y] + 0.3 * torch.randn(120, 64, generator=generator)
    return x.view(-1, 1, 8, 8), y
"""


def module_writer(folder: Path, patch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return what writes a module into ``folder`` and returns its name; the path is put back at the end."""
    patch.setattr(sys, "path", [*sys.path])

    def write(text: str) -> str:
        name = f"users_study_{next(_numbers)}"
        (folder / f"{name}.py").write_text(text)
        return name

    return write
