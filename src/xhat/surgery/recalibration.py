"""What a recalibration did: layers, batches, and how far their statistics moved."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

_SHOWN = 5  # layers that a repr names


@dataclass(frozen=True)
class Moved:
    """How far one layer's statistics moved, over its channels.

    In units of the old σ = √(running_var + ε), which evaluation divided by. NaN where old statistics were.
    """

    values: int  # values a channel, over all batches and ranks
    batches: int  # batches that the layer saw: its new num_batches_tracked
    shift_median: float  # |new mean − old mean| / old σ
    shift_max: float
    ratio_median: float  # (new unbiased variance + ε) / (old running_var + ε)
    ratio_min: float
    ratio_max: float

    @classmethod
    def of(
        cls, *, values: int, batches: int, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], eps: float
    ) -> "Moved":
        """Compare (mean, variance) of all channels before and after, float64."""
        old_var, new_var = (variance + eps for variance in (old[1], new[1]))
        shift = (new[0] - old[0]).abs() / old_var.sqrt()
        ratio = new_var / old_var
        return cls(
            values=values,
            batches=batches,
            shift_median=_quantile(shift, 0.5),
            shift_max=_quantile(shift, 1),
            ratio_median=_quantile(ratio, 0.5),
            ratio_min=_quantile(ratio, 0),
            ratio_max=_quantile(ratio, 1),
        )


@dataclass(frozen=True)
class Recalibration:
    """What ``recalibrate_`` did to a model."""

    layers: tuple[str, ...]  # full names of the layers with new statistics
    moved: Mapping[str, Moved]  # by layer: how far, and of how many values
    kept: Mapping[str, str]  # layers that were left alone, and why
    batches: int  # that the statistics are of, over all ranks; in each pass
    skipped: int  # batches left out, since a layer would have had a single value a channel to normalise
    passes: int  # how often the batches were gone through

    @property
    def values(self) -> dict[str, int]:
        """Values a channel, by layer."""
        return {name: moved.values for name, moved in self.moved.items()}

    def __repr__(self) -> str:
        head = f"Recalibration of {len(self.layers)} batch norms on {self.batches} batches, passes: {self.passes}"
        head += f", skipped batches: {self.skipped}" if self.skipped else ""
        order = sorted(self.moved, key=lambda name: -self.moved[name].shift_max)
        lines = [
            f"  {name or '(model)'}: mean moved {m.shift_median:.2g}σ (at most {m.shift_max:.2g}σ), "
            f"variance × {m.ratio_median:.2g} ({m.ratio_min:.2g} to {m.ratio_max:.2g})"
            for name, m in ((name, self.moved[name]) for name in order[:_SHOWN])
        ]
        if len(order) > _SHOWN:
            lines.append(f"  and {len(order) - _SHOWN} that moved less")
        lines += [f"  kept {name or '(model)'}: {why}" for name, why in list(self.kept.items())[:_SHOWN]]
        if len(self.kept) > _SHOWN:
            lines.append(f"  and {len(self.kept) - _SHOWN} more kept")
        return "\n".join([head, *lines])

    def to_frame(self) -> pd.DataFrame:
        """Return one row a layer; ``kept`` is the reason of a layer without new statistics, else empty."""
        columns = ["module", *Moved.__dataclass_fields__, "kept"]
        rows = [{"module": name, **vars(moved), "kept": ""} for name, moved in self.moved.items()]
        rows += [{"module": name, "values": 0, "batches": 0, "kept": why} for name, why in self.kept.items()]
        return pd.DataFrame(rows, columns=columns)


def _quantile(values: Tensor, level: float) -> float:
    return float(torch.quantile(values.to(torch.float64), level)) if len(values) else float("nan")
