"""What an operation on a model returns: the copy, what was changed, what was refused and why."""

from dataclasses import dataclass

import pandas as pd
from torch import nn


@dataclass(frozen=True)
class Change:
    """One module that was changed."""

    module: str  # full name
    what: str  # a short clause, as “folded into features.0.0”


@dataclass(frozen=True)
class Refusal:
    """One module that was left as it is."""

    module: str  # full name
    reason: str  # a short clause that names the other modules concerned
    needless: bool = False  # whether it needs no change: what was asked for holds without it


@dataclass(frozen=True)
class Surgery:
    """A changed copy of a model, and the record of the changes."""

    model: nn.Module
    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]
    max_abs_error: float | None  # largest difference of an output from the original's on the inputs given

    def __repr__(self) -> str:
        error = "" if self.max_abs_error is None else f", max_abs_error={self.max_abs_error:.2g}"
        return f"Surgery({len(self.changes)} changed, {len(self.refusals)} refused{error})"

    def to_frame(self) -> pd.DataFrame:
        """Return one row a module: ``module``, ``done`` (bool) and ``why`` (what was changed, or the reason)."""
        rows = [(change.module, True, change.what) for change in self.changes]
        rows += [(refusal.module, False, refusal.reason) for refusal in self.refusals]
        return pd.DataFrame(rows, columns=["module", "done", "why"])
