"""How many steps of gradient descent bring a layer's moments to given values, and through which parameters."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xhat.study.measures._layers import alive, entering, moments, through
from xhat.study.scene import Scene, floats, normalising, weighted
from xhat.study.store import Arrays

Floats = npt.NDArray[np.float64]

# γ and β of the layer's normalisation alone; weights and bias of the layer alone, where nothing normalises;
# every parameter up to the layer but γ and β of its own normalisation.
WAYS = ("affine", "layer", "all")
LOST = 1e3  # times the error at the start: too large a rate, which is given up
IDLE = (10, 1e-3)  # steps, and the change of the error below which the rate is given up as too small


@dataclass(frozen=True)
class Control:
    """Gradient descent on a layer's moments through different parameters, each at its own best rate.

    The layer's values are what enters the activation of block ``layer``, on the first ``samples`` training
    samples in training mode. Of every unit the mean is to move by ``mean`` standard deviations, up or
    down, and the standard deviation (biased) to grow or shrink ``std`` times, as a fixed draw says that is
    the same in every arm. With mean μ, standard deviation σ, targets μ*, σ* and σ₀ at the start,

        error = mean over units of ((μ−μ*)²/σ₀² + (ln σ/σ*)²),

    and plain gradient descent goes on units times the error, so that rates hang less on the width. The best
    of ``rates`` is the one that first brings the error below ``goal`` times its start, or that ends lowest
    if none does in ``cap`` steps.

    Of batch norm β is the mean and |γ|, but for ε, the standard deviation: "affine" descends in coordinates
    that are the moments themselves.

    Arrays for M members and W = 3 ``WAYS``: steps (M, W): the first number of steps with an error below the
    goal, ``cap`` + 1 if there is none; error (M, W, cap + 1) relative to the start, at the best rate, which
    stays at its last value where descent was ended; rate (M, W). NaN for a way that a network does not have.
    """

    at: tuple[int, ...]
    layer: int  # block, counted from 0
    rates: tuple[float, ...]
    cap: int = 100
    samples: int = 256
    mean: float = 0.5
    std: float = 1.5
    goal: float = 0.01
    kind: str = field(default="control", init=False)

    def take(self, scene: Scene) -> Arrays:
        """Descend in every way at every rate, each time from the network as it stands."""
        members, ways = scene.members, len(WAYS)
        steps, rate = np.full((members, ways), np.nan), np.full((members, ways), np.nan)
        error = np.full((members, ways, self.cap + 1), np.nan)
        for place, way in enumerate(WAYS):
            parameters, first = self._parameters(scene, way)
            if parameters:
                found = self._best(scene, parameters, first)
                steps[:, place], error[:, place], rate[:, place] = found
        return {"steps": steps, "error": error, "rate": rate}

    def _parameters(self, scene: Scene, way: str) -> tuple[list[Tensor], int]:
        """Return what descends, and the first block that it changes."""
        block = scene.blocks[self.layer]
        norm = normalising(block)
        if way == "affine":
            return list(norm.parameters()) if norm else [], self.layer
        if way == "layer":
            return [] if norm else list(weighted(block).parameters()), self.layer
        before = [p for earlier in scene.blocks[: self.layer] for p in earlier.parameters()]
        return [*before, *weighted(block).parameters()], 0

    def _best(self, scene: Scene, parameters: list[Tensor], first: int) -> tuple[Floats, Floats, Floats]:
        with torch.no_grad():
            x = through(scene.blocks[:first], entering(scene, scene.task.fixed(self.samples)))
        blocks = [*scene.blocks[first : self.layer], scene.blocks[self.layer][:-1]]
        kept = [p.detach().clone() for p in parameters]
        best = np.full(scene.members, np.inf)
        lowest = np.full(scene.members, np.inf)
        error = np.full((scene.members, self.cap + 1), np.nan)
        rate = np.full(scene.members, np.nan)
        limit = self.cap
        for lr in sorted(self.rates, reverse=True):  # a rate that is too large is given up soon
            row = self._descend(scene, parameters, blocks, x, lr, limit)
            with torch.no_grad():
                for parameter, values in zip(parameters, kept, strict=True):
                    parameter.copy_(values)
            reached = row < self.goal
            steps = np.where(reached.any(1), reached.argmax(1), self.cap + 1)
            last = np.where(np.isfinite(row[:, -1]), row[:, -1], np.inf)
            better = (steps < best) | ((steps == best) & (steps > self.cap) & (last < lowest))
            best[better], lowest[better], rate[better] = steps[better], last[better], lr
            error[better] = row[better]
            limit = int(min(self.cap, best.max()))
        best[~np.isfinite(error[:, 0])] = np.nan
        return best, error, rate

    def _descend(
        self,
        scene: Scene,
        parameters: list[Tensor],
        blocks: list[nn.Module],
        x: Tensor,
        lr: float,
        limit: int,
    ) -> Floats:
        """Return errors (M, cap + 1) relative to the start; the last one is repeated to the end."""
        rows: list[Floats] = []
        target: _Target | None = None
        for step in range(limit + 1):
            with torch.enable_grad():
                now = moments(scene, through(blocks, x))
                target = target or _Target.of(now, self.mean, self.std)
                error, units = target.error(now)
            rows.append(floats(error))
            relative = rows[-1] / rows[0]
            open_ = (relative >= self.goal) & (relative < LOST)
            idle = step == IDLE[0] and not (np.abs(relative - 1)[open_] > IDLE[1]).any()
            if step == limit or idle or not open_.any():
                break
            slopes = torch.autograd.grad((units * error).sum(), parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, slope in zip(parameters, slopes, strict=True):
                    if slope is not None:
                        parameter.sub_(lr * slope)
        found = np.stack(rows, 1) / rows[0][:, None]
        return np.pad(found, ((0, 0), (0, self.cap + 1 - found.shape[1])), mode="edge")


@dataclass(frozen=True)
class _Target:
    mean: Tensor  # (M, units)
    std: Tensor
    start: Tensor  # the standard deviation at the start
    used: Tensor  # which units vary

    @staticmethod
    def of(now: tuple[Tensor, Tensor], mean: float, std: float) -> "_Target":
        """Draw where every unit is to go."""
        middle, spread = (moment.detach() for moment in now)
        generator = torch.Generator().manual_seed(4_000_037)
        up, wider = torch.randint(0, 2, (2, *middle.shape), generator=generator) * 2.0 - 1.0
        return _Target(middle + mean * up * spread, spread * std**wider, spread, alive(spread))

    def error(self, now: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the error (M,), and the number of units that enter it."""
        mean, std = (torch.where(self.used, moment, 1.0) for moment in now)
        far = ((mean - self.mean) / self.start) ** 2 + (std.log() - self.std.log()) ** 2
        units = self.used.sum(-1)
        return torch.where(self.used, far, 0.0).sum(-1) / units, units
