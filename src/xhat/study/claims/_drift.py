"""Numbers of how a network's distributions move: drift, path length, dead units, autocorrelation."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xhat.landscape import Position
from xhat.study.outcome import Outcome

Floats = npt.NDArray[np.float64]

# By name of a place, the (layer, side) pairs that stand there.
Watched = dict[str, tuple[tuple[str, str], ...]]

# Below this a drift is no movement but rounding; keeps logarithms finite for networks that stand still.
STILL = 1e-6

PERCENTILES = (15, 50, 85)  # as in [IS], sec. 4.1


@dataclass(frozen=True)
class Movement:
    """How the inputs of a trained network's layers moved. R records, the last ``window`` step by step."""

    outcome: Outcome
    window: int
    watched: Watched | None  # None: the inputs of all layers but the first count

    @cached_property
    def inputs(self) -> tuple[Position, ...]:
        """What enters the watched layers, or all with weights: never BN's own output, set by β and γ²."""
        if self.watched is None:
            return tuple([p for p in self.outcome.positions() if p.side == "input"][1:])
        return self.at("at the next layer's input")

    def at(self, place: str) -> tuple[Position, ...]:
        """Return the positions of a named place, in the order of the layers."""
        assert self.watched is not None
        wanted = self.watched[place]
        return tuple(p for p in self.outcome.positions() if (p.layer, p.side) in wanted)

    @property
    def complete(self) -> bool:
        """Whether every planned record was made: a run that becomes infinite stops before."""
        planned = self.outcome.run.record["spec"]["record"]["at"]
        return len(self.outcome.record_step) == len(planned)

    @property
    def steps(self) -> Floats:
        """Shape (R - window,): the evenly spaced steps."""
        return self.outcome.record_step[: -self.window]

    def drift(self, positions: tuple[Position, ...]) -> Floats:
        """Shape (R - window - 1,): W1 between neighbouring records over the pooled std, mean over layers."""
        return np.asarray(np.mean([p.drift()[: len(self.steps) - 1, 0] for p in positions], axis=0))

    @cached_property
    def late_drift(self) -> float:
        """Mean drift of the inputs in the second half of training; NaN if they are not finite there."""
        return self.late(self.inputs)

    def late(self, positions: tuple[Position, ...]) -> float:
        """Mean drift of ``positions`` in the second half of training; NaN if they are not finite there."""
        if not self.complete:
            return np.nan
        drift = self.drift(positions)
        late = drift[len(drift) // 2 :]
        return float(late.mean()) if np.isfinite(late).all() else np.nan

    @property
    def path(self) -> float:
        """Length of the percentiles' way over training in units of the pooled std at its start.

        Mean over the 15th, 50th and 85th percentile and over the layers.
        """
        if not self.complete:
            return np.nan
        lengths = []
        for position in self.inputs:
            spread = np.sqrt(np.mean(position.std[0, 0].astype(np.float64) ** 2) + position.mean[0, 0].var())
            for percent in PERCENTILES:
                way = np.abs(np.diff(position.percentile(percent)[: len(self.steps), 0])).sum()
                lengths.append(way / spread if spread > 0 else np.nan)
        return float(np.mean(lengths))

    @property
    def dead(self) -> float:
        """Share of units that have one value for all inputs, at the end; NaN if that was not reached."""
        if not self.complete:
            return np.nan
        return float(np.mean([p.dead[-1, 0] for p in self.inputs]))

    def autocorrelation(self, lag: int) -> float:
        """Autocorrelation of the units' means over the last ``window`` steps, after a linear trend.

        Mean over the units that move; 0 if none does, NaN if the network is not finite there. A series of
        period 2 has -1 at lag 1 and +1 at lag 2.
        """
        if not self.complete:
            return np.nan
        found = []
        for position in self.inputs:
            series = position.mean[-self.window :, 0].astype(np.float64)
            if not np.isfinite(series).all():
                return np.nan
            time = np.arange(len(series)) - (len(series) - 1) / 2
            centred = series - series.mean(0)
            rest = centred - np.outer(time, time @ centred) / (time @ time)
            power = (rest**2).sum(0)
            moving = power > STILL**2 * len(series)
            found += list((rest[lag:] * rest[:-lag]).sum(0)[moving] / power[moving])
        return float(np.mean(found)) if found else 0.0

    @property
    def collapsed(self) -> bool:
        """Finite, and finally within 5% of chance: the network has learned nothing and stays."""
        chance = float(self.outcome.run.arrays["chance"][self.outcome.index])
        return bool(np.isfinite(self.outcome.loss).all()) and (
            abs(self.outcome.final_loss - chance) <= 0.05 * chance
        )
