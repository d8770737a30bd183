"""Where a run trains: on the CPU, or on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xhat.errors import UsageError, unknown

DEVICES = ("cpu", "cuda")


def check_device(name: str, *, present: bool = True) -> None:
    """Raise unless a run can train on the device ``name``.

    Args:
        name: One of ``DEVICES``.
        present: Whether it must be in this machine; workers elsewhere have their own.

    Raises:
        UsageError: there is no such device, or torch finds none here.
    """
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    if present and name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "torch finds no CUDA device here: leave --device out to train on the CPU, or install NVIDIA's "
            "driver and a build of torch for CUDA (https://pytorch.org/get-started/locally)"
        )


@contextmanager
def on_device(name: str) -> Iterator[torch.device]:
    """Yield the device; put back the states of torch's random generators, and keep a GPU to float32.

    cuDNN would else round convolutions' inputs to 10 bits (TF32) and choose algorithms that differ from run
    to run.

    Raises:
        UsageError: as ``check_device``.
    """
    check_device(name)
    if name == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield torch.device(name)
        return
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()]), exact:
        yield torch.device(name)
