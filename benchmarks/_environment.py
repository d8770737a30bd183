"""Where numbers were made."""

import os
import platform

import torch

import xhat


def environment() -> dict[str, object]:
    """Return versions and the machine."""
    return {
        "xhat": xhat.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
    }
