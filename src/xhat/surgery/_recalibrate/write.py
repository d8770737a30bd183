"""Running statistics read, and written all or none."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from xhat.errors import DataError, ModelError
from xhat.surgery._recalibrate.found import Found


def statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return copies of running_mean and running_var, float64 on the CPU."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = (
        held.detach().cpu().to(torch.float64, copy=True) for held in (norm.running_mean, norm.running_var)
    )
    return mean, var


def write_(norms: Mapping[str, _BatchNorm], found: Found) -> None:
    """Set the statistics of the layers that saw something: mean, unbiased variance, number of batches.

    Raises:
        DataError: a layer saw one value a channel in all, which has no variance.
        ModelError: a statistic would be infinite in its buffer's dtype.
    """
    new: list[tuple[Tensor, Tensor]] = []
    for name, moments in found.moments.items():
        norm = norms[name]
        if moments.count < 2:
            raise DataError(
                f"batch norm {name!r} saw one value a channel in all batches together, and a variance needs two: "
                "give more or larger batches. Nothing was changed."
            )
        values = {"running_mean": moments.mean, "running_var": moments.variance(unbiased=True)}
        for kind, value in values.items():
            buffer = getattr(norm, kind)
            if not bool(torch.isfinite(value.to(buffer.dtype)).all()):
                raise ModelError(
                    f"{kind} of batch norm {name!r} would be up to {float(value.abs().max()):.3g}, which is infinite "
                    f"in {buffer.dtype}. Keep its statistics in float32, with .float() on the layer. Nothing was "
                    "changed."
                )
            new.append((buffer, value))
        if norm.num_batches_tracked is not None:
            new.append((norm.num_batches_tracked, torch.tensor(found.seen[name])))
    with torch.no_grad():
        old = [buffer.clone() for buffer, _ in new]
        try:
            for buffer, value in new:
                buffer.copy_(value)
        except BaseException:  # Ctrl-C comes in between too
            for (buffer, _), value in zip(new, old, strict=True):
                buffer.copy_(value)
            raise
