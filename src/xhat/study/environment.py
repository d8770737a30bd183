"""Where and with what the numbers were made."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import xhat
from xhat.memory import memory_is_reused
from xhat.study.result import Environment


def environment(*, workers: int) -> Environment:
    """Return this machine's and this installation's description."""
    return Environment(
        xhat=xhat.__version__,
        commit=_commit(),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        platform=platform.platform(),
        processor=_processor(),
        cores=cores(),
        workers=workers,
        threads_per_run=1,
        memory_reused=memory_is_reused(),
    )


def here(device: str = "cpu") -> dict[str, Any]:
    """Return what a run's record says of the process that did it, and of its device."""
    found = environment(workers=0)
    names = ("xhat", "commit", "python", "torch", "numpy", "platform", "processor", "memory_reused")
    said = {name: getattr(found, name) for name in names}
    said["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    if device != "cpu":
        said["processor"] += f", {torch.cuda.get_device_name(device)}"
    return said


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _commit() -> str:
    """Return the commit of the checkout that xhat runs from, or "" if it is installed without one."""
    folder = Path(xhat.__file__).parents[2]
    if not (folder / ".git").exists():
        return ""
    try:
        found = subprocess.run(  # noqa: S603 - no shell, no outside text
            ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
