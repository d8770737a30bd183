"""How the distribution in every layer moves over training steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from xhat.errors import UsageError
from xhat.landscape._summary import Array, Summary, by_unit, summarise
from xhat.models.ensemble import Ensemble, EnsembleBatchNorm, EnsembleLayerNorm, EnsembleLinear
from xhat.unchanged import probe_depth, unchanged

Side = Literal["input", "output"]

QUANTILES = tuple(np.round(np.linspace(0.0, 1.0, 21), 3))

_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
_LAYERS = (
    *_LAST,
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    EnsembleLinear,
    EnsembleBatchNorm,
    EnsembleLayerNorm,
)


@dataclass(frozen=True)
class Position:
    """What was seen at one side of one layer, over R snapshots; M members of C units (M = 1: one model)."""

    layer: str  # the module's full name
    side: Side
    quantiles: tuple[float, ...]  # the Q levels, ascending
    mean: Array  # (R, M, C)
    std: Array  # (R, M, C), biased
    dead: Array  # (R, M) share of units that have one value for all inputs
    pooled: Array  # (R, M, Q) quantiles of all values
    units: Array  # (R, M, U, Q) quantiles of up to U evenly spaced units

    def percentile(self, percent: float) -> npt.NDArray[np.float64]:
        """Shape (R, M): a percentile of all values, interpolated between the kept quantiles.

        NaN outside of them.
        """
        flat = self.pooled.reshape(-1, self.pooled.shape[-1])
        found = np.array([np.interp(percent / 100, self.quantiles, row, np.nan, np.nan) for row in flat])
        return found.reshape(self.pooled.shape[:2])

    def drift(self) -> npt.NDArray[np.float64]:
        """Shape (R-1, M): Wasserstein-1 distance of neighbouring snapshots over the pooled std.

        The distance is between each kept unit's quantile functions, averaged over units. A layer whose
        values are all one number has drift 0 while they stay there. NaN where values are not finite.
        """
        with np.errstate(invalid="ignore"):  # inf - inf, in a network that diverges
            distance = np.abs(np.diff(self.units.astype(np.float64), axis=0))
            levels = np.array(self.quantiles)
            # W1 is the area between two quantile functions, here over the levels that are kept.
            area = np.trapezoid(distance, levels, axis=3) / (levels[-1] - levels[0])
            moved = area.mean(axis=2)
            # Var over units and samples together = mean of variances + variance of means.
            variance = self.std.astype(np.float64) ** 2
            spread = np.sqrt(variance.mean(axis=2) + self.mean.astype(np.float64).var(axis=2))
            scale = (spread[1:] + spread[:-1]) / 2
            return np.where(moved == 0, 0.0, moved / np.where(scale == 0, np.nan, scale))


class Recording:
    """What ``record`` has seen so far. Snapshots come from training passes or from ``snapshot``."""

    def __init__(
        self, model: nn.Module, *, layers: Sequence[str] | None, quantiles: Sequence[float], units: int
    ) -> None:
        self.quantiles = tuple(float(q) for q in quantiles)
        self.steps: list[int] = []
        self._model = model
        self._members = model.members if isinstance(model, Ensemble) else None
        self._modules = _choose(model, layers)
        self._units = units
        self._levels = np.array(self.quantiles, dtype=np.float32)
        self._seen: dict[tuple[str, Side], list[Summary]] = {}
        self._found: dict[tuple[str, Side], Summary] = {}
        self._handles: list[RemovableHandle] = []

    def snapshot(self, inputs: Any, step: int | None = None) -> None:
        """Run the model on a fixed ``inputs``, in training mode, and keep what its layers hold.

        The model is left as it was, bit for bit: running statistics and random state too.

        Args:
            inputs: What the model is called with.
            step: The number shown for this snapshot; by default one more than the last.
        """
        self._stop(None)  # in case Ctrl-C ended a pass: torch calls no hook then
        with unchanged(self._model), torch.no_grad():
            self._model.train()
            self._start()
            try:
                self._model(inputs)
            except BaseException:
                self._stop(None)
                raise
            self._stop(step if step is not None else (self.steps[-1] + 1 if self.steps else 0))

    def positions(self) -> tuple[Position, ...]:
        """Return what was seen, one ``Position`` a layer and side, in the order of the forward pass."""
        return tuple(
            Position(
                layer=layer,
                side=side,
                quantiles=self.quantiles,
                mean=np.stack([s.mean for s in seen]),
                std=np.stack([s.std for s in seen]),
                dead=np.stack([s.dead for s in seen]),
                pooled=np.stack([s.pooled for s in seen]),
                units=np.stack([s.units for s in seen]),
            )
            for (layer, side), seen in self._seen.items()
            if len(seen) == len(self.steps)  # a layer that some passes skipped has no even series
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row a step, layer, side and member: moments, percentiles 15/50/85, dead units, drift."""
        rows = []
        for position in self.positions():
            drift = np.concatenate([np.full((1, position.dead.shape[1]), np.nan), position.drift()])
            low, middle, high = (position.percentile(p) for p in (15, 50, 85))
            for index, step in enumerate(self.steps):
                rows += [
                    {
                        "step": step,
                        "layer": position.layer,
                        "side": position.side,
                        "member": member,
                        "mean": float(position.mean[index, member].mean()),
                        "std": float(position.std[index, member].mean()),
                        "p15": float(low[index, member]),
                        "p50": float(middle[index, member]),
                        "p85": float(high[index, member]),
                        "dead": float(position.dead[index, member]),
                        "drift": float(drift[index, member]),
                    }
                    for member in range(position.dead.shape[1])
                ]
        columns = ["step", "layer", "side", "member", "mean", "std", "p15", "p50", "p85", "dead", "drift"]
        return pd.DataFrame(rows, columns=columns)

    def _start(self) -> None:
        """Hook the layers for one forward pass."""
        self._found = {}
        self._handles = [
            handle for name, module in self._modules.items() for handle in self._hook(name, module)
        ]

    def _stop(self, step: int | None) -> None:
        """Unhook the layers; keep what they showed under ``step``, or drop it if the pass failed."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if step is None:
            return
        self.steps.append(step)
        for key, summary in self._found.items():
            self._seen.setdefault(key, []).append(summary)

    def _hook(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            self._keep(name, "input", args)

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._keep(name, "output", (output,))

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def _keep(self, name: str, side: Side, values: tuple[Any, ...]) -> None:
        # A module used twice in one pass is recorded at its first use.
        if name not in self._modules or not values or (name, side) in self._found:
            return
        if isinstance(values[0], Tensor) and values[0].dim() >= 2:
            last = isinstance(self._modules[name], _LAST)
            units = by_unit(values[0], members=self._members, last=last)
            self._found[name, side] = summarise(units, quantiles=self._levels, units=self._units)


@contextmanager
def record(
    model: nn.Module,
    *,
    every: int | None = 1,
    layers: Sequence[str] | None = None,
    quantiles: Sequence[float] = QUANTILES,
    units: int = 8,
) -> Iterator[Recording]:
    """Record the distributions in a model's layers over the steps of a training run.

    Inside the ``with`` block every ``every``-th training-mode forward pass is recorded, at the input and
    the output of each chosen layer; the passes of probes do not count. ``recording.snapshot(inputs, step)``
    records a pass of its own on a fixed batch, which tells the movement of the weights from that of the
    batches.

    Args:
        model: Any network; an ensemble is recorded member by member.
        every: Record each ``every``-th training pass; None: only what ``snapshot`` is asked for.
        layers: Full names of modules; by default every convolution, linear and normalisation layer.
        quantiles: Levels between 0 and 1 that are kept, in ascending order.
        units: Units a layer of which the quantiles are kept one by one.

    Yields:
        A ``Recording``: ``positions()``, ``steps``, ``to_frame()``.

    Raises:
        UsageError: a layer that the model does not have, a model without any such layer, or ``every``,
            ``quantiles`` or ``units`` out of range.

    Source: Santurkar et al. 2018, arXiv 1805.11604, figure 1; Ioffe and Szegedy 2015, sec. 4.1.
    """
    if every is not None and every < 1:
        raise UsageError(f"every must be a positive number of passes or None, got {every!r}")
    levels = np.array(quantiles, dtype=np.float64)
    if levels.ndim != 1 or not len(levels) or levels[0] < 0 or levels[-1] > 1 or (np.diff(levels) <= 0).any():
        raise UsageError(f"quantiles must be ascending levels between 0 and 1, got {quantiles!r}")
    if units < 1:
        raise UsageError(f"units must be a positive number of units a layer, got {units!r}")
    recording = Recording(model, layers=layers, quantiles=quantiles, units=units)
    handles: list[RemovableHandle] = []
    if every is not None:
        handles = _record_training(model, recording, every)
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()
        recording._stop(None)


def _record_training(model: nn.Module, recording: Recording, every: int) -> list[RemovableHandle]:
    """Hook the root, so that every ``every``-th training pass is recorded."""
    passes = 0
    listening = False
    depth = probe_depth()

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal passes, listening
        if probe_depth() != depth:
            return
        recording._stop(None)  # in case Ctrl-C ended the last pass: torch calls no hook then
        listening = False
        if module.training:
            listening = passes % every == 0
            passes += 1
            if listening:
                recording._start()
                # Hooks that are added during a pass come too late for the root itself.
                recording._keep("", "input", args)

    def after(_module: nn.Module, _args: Any, output: Any) -> None:
        nonlocal listening
        if listening and probe_depth() == depth:  # torch passes None as output if the forward pass raised
            recording._keep("", "output", (output,))
            recording._stop(None if output is None else passes - 1)
            listening = False

    return [
        model.register_forward_pre_hook(before),
        model.register_forward_hook(after, always_call=True),
    ]


def _choose(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    if layers is None:
        chosen: dict[str, nn.Module] = {
            name: module for name, module in modules.items() if isinstance(module, _LAYERS)
        }
        if not chosen:
            raise UsageError("the model has no convolution, linear or normalisation layer to record")
        return chosen
    missing = [name for name in layers if name not in modules]
    if missing:
        raise UsageError(f"the model has no layer {missing[0]!r}; it has {', '.join(filter(None, modules))}")
    return {name: modules[name] for name in layers}
