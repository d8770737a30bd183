"""How far the loss falls when one layer alone descends, on the batch that comes next."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xhat.study.measures._layers import entering, through
from xhat.study.scene import Scene, floats, weighted
from xhat.study.store import Arrays


@dataclass(frozen=True)
class LayerStep:
    """Gradient descent of ``steps`` steps on W and b of the layer behind block l, all else held, for an MLP.

    On one batch, the one of the training step that comes next, in training mode. The decrease is
    (L₀ − L)/L₀ ≤ 1 of the loss L₀ at the start and L at the end, at the best of ``rates``.

    Arrays for M members and layers l: decrease and rate, each (M, layers); NaN where the loss is finite at
    no rate.
    """

    at: tuple[int, ...]
    layers: tuple[int, ...]  # hidden layers l from 0, each with a hidden layer behind it
    rates: tuple[float, ...]
    steps: int = 10
    kind: str = field(default="layer_step", init=False)

    def take(self, scene: Scene) -> Arrays:
        """Descend with every layer at every rate, each time from the network as it stands."""
        shape = (scene.members, len(self.layers))
        decrease, rate = np.full(shape, np.nan), np.full(shape, np.nan)
        for place, layer in enumerate(self.layers):
            with torch.no_grad():  # what comes before the layer stays as it is
                x = through(scene.blocks[: layer + 1], entering(scene, scene.batch[0]))
            parameters: list[Tensor] = list(weighted(scene.blocks[layer + 1]).parameters())
            kept = [parameter.detach().clone() for parameter in parameters]
            rest = [*scene.blocks[layer + 1 :], scene.model.get_submodule("output")]
            for lr in self.rates:
                found = self._descend(scene, parameters, rest, x, lr)
                with torch.no_grad():
                    for parameter, values in zip(parameters, kept, strict=True):
                        parameter.copy_(values)
                better = np.isfinite(found) & ~(found <= decrease[:, place])
                decrease[better, place], rate[better, place] = found[better], lr
        return {"decrease": decrease, "rate": rate}

    def _descend(
        self, scene: Scene, parameters: list[Tensor], rest: list[nn.Module], x: Tensor, lr: float
    ) -> npt.NDArray[np.float64]:
        start: Tensor | None = None
        for _ in range(self.steps):
            with torch.enable_grad():
                loss = scene.task.losses(through(rest, x), scene.batch[1])
                slopes = torch.autograd.grad(loss.sum(), parameters)
            start = loss.detach() if start is None else start
            with torch.no_grad():
                for parameter, slope in zip(parameters, slopes, strict=True):
                    parameter.sub_(lr * slope)
        assert start is not None
        with torch.no_grad():
            end = scene.task.losses(through(rest, x), scene.batch[1])
        return floats((start - end) / start)
