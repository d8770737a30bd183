"""Steps along the negative gradient, for one model or for all members of an ensemble at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Walk:
    """What was met at w - ηg, for M members and E step sizes."""

    start_loss: Floats  # (M,)
    gradient_norm: Floats  # (M,) ‖g‖₂
    weight_norm: Floats  # (M,) ‖w‖₂
    loss: Floats  # (M, E)
    distance: Floats  # (M, E) ‖g - ∇L(w - ηg)‖₂


@torch.no_grad()
def walk(
    parameters: Sequence[Tensor], losses: Callable[[], Tensor], steps: Tensor, *, members: int = 1
) -> Walk:
    """Evaluate losses and gradients at w - ηg for every step size η.

    Moves ``parameters`` in place and leaves them there: the caller restores.

    Args:
        parameters: Tensors whose elements lie member by member (an ensemble's first axis).
        losses: Evaluates the losses, shape (members,), at the parameters' current values; called once
            per step size and once at the start.
        steps: Step sizes η, shape (members, E).
        members: How many networks the parameters hold.
    """
    origin = [parameter.detach().clone() for parameter in parameters]
    start, gradient = _loss_and_gradient(parameters, losses)
    found_loss, found_distance = [], []
    for step in steps.unbind(1):
        for parameter, at, slope in zip(parameters, origin, gradient, strict=True):
            rate = step[:, None].to(at)
            moved = at.reshape(members, -1) - rate * slope.reshape(members, -1)
            # Past autograd, so that a graph the caller still holds stays valid once the weights are back.
            parameter.data.copy_(moved.view_as(parameter))
        loss, here = _loss_and_gradient(parameters, losses)
        found_loss.append(loss)
        found_distance.append(_norm([a - b for a, b in zip(gradient, here, strict=True)], members))
    return Walk(
        start_loss=_floats(start),
        gradient_norm=_floats(_norm(gradient, members)),
        weight_norm=_floats(_norm(origin, members)),
        loss=_floats(torch.stack(found_loss, 1)),
        distance=_floats(torch.stack(found_distance, 1)),
    )


def _loss_and_gradient(
    parameters: Sequence[Tensor], losses: Callable[[], Tensor]
) -> tuple[Tensor, list[Tensor]]:
    with torch.enable_grad():
        loss = losses()
        found = torch.autograd.grad(loss.sum(), list(parameters), allow_unused=True)
    gradient = [
        torch.zeros_like(parameter) if slope is None else slope
        for parameter, slope in zip(parameters, found, strict=True)
    ]
    return loss.detach(), gradient


def _norm(tensors: Sequence[Tensor], members: int) -> Tensor:
    squares = [tensor.reshape(members, -1).double().square().sum(1) for tensor in tensors]
    return torch.stack(squares).sum(0).sqrt()


def _floats(tensor: Tensor) -> Floats:
    return tensor.double().cpu().numpy()
