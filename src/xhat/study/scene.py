"""A network in the middle of its training, as a measure finds it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xhat.models import Ensemble
from xhat.study.tasks import Task


@dataclass(frozen=True)
class Scene:
    """What a measure may use. It may alter the model as it likes: all is put back afterwards.

    M members: those of an ensemble, else one. The model is in training mode.
    """

    model: nn.Module
    task: Task
    step: int  # training steps done
    batch: tuple[Tensor, Tensor]  # input and target of the step that comes next
    lr: Tensor  # (M,)

    def on_cpu(self) -> "Scene":
        """Return the scene with a copy of the model, and all else, on the CPU: measures make tensors there."""
        x, y = self.batch
        model = copy.deepcopy(self.model).cpu()
        return replace(self, model=model, batch=(x.cpu(), y.cpu()), lr=self.lr.cpu())

    @property
    def members(self) -> int:
        """How many networks the model holds."""
        return len(self.lr)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the members' losses, shape (M,)."""
        return self.task.losses(self.model(x), y)

    def gradients(
        self, x: Tensor, y: Tensor, parameters: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the losses (M,) and each parameter's gradient, zeros where there is none.

        Args:
            x: Input.
            y: Target.
            parameters: All that want a gradient by default.
        """
        wanted = [p for p in self.model.parameters() if p.requires_grad] if parameters is None else parameters
        with torch.enable_grad():
            loss = self.losses(x, y)
            found = torch.autograd.grad(loss.sum(), list(wanted), allow_unused=True)
        slopes = [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True)]
        return loss.detach(), slopes

    @property
    def blocks(self) -> list[nn.Sequential]:
        """The blocks of an MLP, a deep linear network or a VGG: weights, normalisation, activation.

        In a block ``weighted`` finds the layer with weights and ``normalising`` the normalisation.
        """
        found = self.model.features if hasattr(self.model, "features") else self.model.hidden
        return list(found)  # type: ignore[arg-type]

    def by_unit(self, x: Tensor) -> Tensor:
        """Return a layer's values as (M, units, samples): (M, C, N) of an ensemble, else (N, C, ...)."""
        return x if isinstance(self.model, Ensemble) else x.transpose(0, 1).flatten(1)[None]

    def by_member(self, x: Tensor) -> Tensor:
        """Return a parameter, or its gradient, as (M, elements)."""
        return x.reshape(self.members, -1)

    def per_member(self, factor: Tensor, like: Tensor) -> Tensor:
        """Return a factor of shape (M,) so shaped that it multiplies a parameter member by member."""
        if not isinstance(self.model, Ensemble):
            return factor.reshape(())
        return factor.view(-1, *[1] * (like.dim() - 1))


def weighted(block: nn.Sequential) -> nn.Module:
    """Return the block's linear layer or convolution."""
    return next(layer for layer in block if isinstance(getattr(layer, "weight", None), Tensor))


def normalising(block: nn.Sequential) -> nn.Module | None:
    """Return the layer behind the weights if it normalises, else None.

    Told by its kind, not by its place: it may stand behind the activation, and have no γ and β.
    """
    return next(
        (layer for layer in block if "Norm" in type(layer).__name__ and layer is not weighted(block)), None
    )


def floats(x: Tensor) -> npt.NDArray[np.float64]:
    """Return a tensor as float64 numbers."""
    return x.detach().double().cpu().numpy()
