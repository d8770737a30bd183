"""What multiplying the weights in front of every normalisation by positive factors changes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xhat.models import Ensemble
from xhat.study.scene import Scene, floats, weighted
from xhat.study.store import Arrays


@dataclass(frozen=True)
class Rescale:
    """Output and gradient with the hidden layers' weights and biases times a, against those before.

    K cases: first each of ``factors``, then each of ``spreads`` s, for which every output unit has a factor
    of its own, log-uniform from 1/s to s and the same in all members. All hidden layers at once, not the
    output layer, on the batch of the step that comes next.

    Arrays for M members, each (M, K): output, ‖f' − f‖/‖f‖ in training mode; stale, the same in evaluation
    mode with the running statistics as they were; gradient, ‖a·∂L/∂(aW)‖/‖∂L/∂W‖ − 1 over the hidden
    layers' weights in training mode; cosine, between a·∂L/∂(aW) and ∂L/∂W.
    """

    at: tuple[int, ...]
    factors: tuple[float, ...]
    spreads: tuple[float, ...] = ()
    seed: int = 0  # of the units' factors
    kind: str = field(default="rescale", init=False)

    def take(self, scene: Scene) -> Arrays:
        """Multiply, and compare."""
        x, y = scene.batch
        scene.model.eval()  # first: training mode moves the running statistics
        with torch.no_grad():
            before = scene.by_member(scene.model(x))
            stale = [_change(scene.by_member(scene.model(x)), before) for _ in self._cases(scene)]
        scene.model.train()
        with torch.no_grad():
            before = scene.by_member(scene.model(x))
            output = [_change(scene.by_member(scene.model(x)), before) for _ in self._cases(scene)]
        slope = _gradient(scene, x, y, None)
        gradient, cosine = [], []
        for factors in self._cases(scene):
            now = _gradient(scene, x, y, factors)
            norms = now.norm(dim=1), slope.norm(dim=1)
            gradient.append(floats(norms[0] / norms[1] - 1))
            cosine.append(floats((now * slope).sum(1) / (norms[0] * norms[1])))
        found = {"stale": stale, "output": output, "gradient": gradient, "cosine": cosine}
        return {name: np.stack(columns, axis=1) for name, columns in found.items()}

    def _cases(self, scene: Scene) -> Iterator[list[Tensor]]:
        """Yield each case's factors, a layer each, while the model is scaled by them."""
        layers = [weighted(block) for block in scene.blocks]
        kept = [[p.detach().clone() for p in layer.parameters()] for layer in layers]
        lead = 1 if isinstance(scene.model, Ensemble) else 0
        units = [layer.get_parameter("weight").shape[lead] for layer in layers]
        generator = torch.Generator().manual_seed(self.seed)
        uniform = [2 * torch.rand(count, generator=generator) - 1 for count in units]
        cases = [[torch.full((count,), factor) for count in units] for factor in self.factors]
        cases += [[torch.tensor(spread).pow(u) for u in uniform] for spread in self.spreads]
        for factors in cases:
            self._set(layers, kept, factors, lead)
            yield factors
        self._set(layers, kept, [torch.ones(count) for count in units], lead)

    @torch.no_grad()
    def _set(
        self, layers: list[torch.nn.Module], kept: list[list[Tensor]], factors: list[Tensor], lead: int
    ) -> None:
        for layer, starts, factor in zip(layers, kept, factors, strict=True):
            for parameter, start in zip(layer.parameters(), starts, strict=True):
                parameter.copy_(start * _by_unit(factor, start, lead))


def _by_unit(factor: Tensor, like: Tensor, lead: int) -> Tensor:
    return factor.view(-1, *[1] * (like.dim() - lead - 1))


def _change(after: Tensor, before: Tensor) -> npt.NDArray[np.float64]:
    return floats((after - before).double().norm(dim=1) / before.double().norm(dim=1))


def _gradient(scene: Scene, x: Tensor, y: Tensor, factors: list[Tensor] | None) -> Tensor:
    """Return a·∂L/∂(aW) of all hidden layers, (M, elements) in float64."""
    weights = [weighted(block).get_parameter("weight") for block in scene.blocks]
    _, slopes = scene.gradients(x, y, weights)
    if factors is not None:
        lead = 1 if isinstance(scene.model, Ensemble) else 0
        slopes = [s * _by_unit(factor, s, lead) for s, factor in zip(slopes, factors, strict=True)]
    return torch.cat([scene.by_member(slope).double() for slope in slopes], dim=1)
