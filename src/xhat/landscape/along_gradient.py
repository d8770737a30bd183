"""How the loss and its gradient change along the gradient: the measures of [S], figure 4."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xhat.errors import UsageError
from xhat.landscape._unchanged import unchanged
from xhat.landscape._walk import Floats, walk

Statistics = Literal["batch", "frozen"]


@dataclass(frozen=True)
class AlongGradient:
    """Losses and gradients at w - ηg, where g = ∇L(w), for E step sizes η.

    One batch at one point of training: an exact evaluation on that batch, not an estimate over data.
    """

    steps: Floats  # (E,) step sizes η, in units of the learning rate's
    start_loss: float  # L(w)
    loss: Floats  # (E,) L(w - ηg)
    gradient_norm: float  # ‖g‖₂
    weight_norm: float  # ‖w‖₂, over the parameters that require a gradient
    predictiveness: Floats  # (E,) ‖g - ∇L(w - ηg)‖₂; small: the gradient predicts
    statistics: Statistics  # what BN normalised with
    batch_size: int

    @property
    def beta(self) -> Floats:
        """Shape (E,): ‖g - ∇L(w - ηg)‖ / (η‖g‖), the change of the gradient per distance moved."""
        return self.predictiveness / (self.steps * self.gradient_norm)

    @property
    def effective_beta(self) -> float:
        """The largest ``beta``: [S]'s effective β-smoothness. NaN where a gradient is not finite."""
        return float(np.max(self.beta))

    @property
    def normalised_beta(self) -> float:
        """‖w‖² times ``effective_beta``: a scale-invariant network can lower β by growing its weights."""
        return self.weight_norm**2 * self.effective_beta

    @property
    def loss_variation(self) -> float:
        """Largest minus smallest loss over the steps."""
        return float(np.max(self.loss) - np.min(self.loss))

    def to_frame(self) -> pd.DataFrame:
        """Return one row a step size: step, loss, predictiveness, beta."""
        return pd.DataFrame(
            {"step": self.steps, "loss": self.loss, "predictiveness": self.predictiveness, "beta": self.beta}
        )


def along_gradient(
    model: nn.Module,
    loss_fn: Callable[[Any, Tensor], Tensor],
    batch: tuple[Any, Tensor],
    *,
    steps: Sequence[float],
    statistics: Statistics = "batch",
) -> AlongGradient:
    """Walk along the negative gradient of one batch and look at loss and gradient on the way.

    At every step the same batch and the same random numbers (dropout) are used. The model is left bit for
    bit as it was, also if ``loss_fn`` raises: weights, buffers, gradients, modes, random state.

    Args:
        model: Any network with parameters that require a gradient.
        loss_fn: ``loss_fn(model(input), target)``, a scalar.
        batch: ``(input, target)``.
        steps: Step sizes η > 0; [S] takes 1/2 to 4 times the learning rate.
        statistics: "batch": BN normalises with the batch's statistics, as in training. "frozen": BN
            normalises with its running statistics, everything else as in training.

    Raises:
        UsageError: no step sizes or one that is not positive, an unknown policy, no parameter that
            requires a gradient, or a loss that is not a scalar.

    Source: Santurkar et al. 2018, arXiv 1805.11604, sec. 3.1 and figure 4.
    """
    sizes = torch.as_tensor(np.asarray(steps, dtype=np.float64))
    if sizes.ndim != 1 or not len(sizes) or not bool((sizes > 0).all()):
        raise UsageError(f"steps must be a sequence of positive step sizes, got {list(steps)!r}")
    if statistics not in ("batch", "frozen"):
        raise UsageError(f"statistics must be 'batch' or 'frozen', got {statistics!r}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UsageError(
            "the model has no parameter that requires a gradient: there is nothing to walk along"
        )
    inputs, target = batch
    with ExitStack() as stack:
        stack.enter_context(unchanged(model))
        model.train()
        if statistics == "frozen":
            freeze_statistics(model)
        randomness = torch.get_rng_state()

        def losses() -> Tensor:
            torch.set_rng_state(randomness)
            loss = loss_fn(model(inputs), target)
            if loss.numel() != 1:
                raise UsageError(
                    f"loss_fn returned a tensor of shape {tuple(loss.shape)}; a walk needs one number a "
                    "batch, or its gradient mixes the samples: reduce it, e.g. with .mean()"
                )
            return loss.reshape(1)

        found = walk(parameters, losses, sizes.to(parameters[0])[None])
    return AlongGradient(
        steps=sizes.numpy(),
        start_loss=float(found.start_loss[0]),
        loss=found.loss[0],
        gradient_norm=float(found.gradient_norm[0]),
        weight_norm=float(found.weight_norm[0]),
        predictiveness=found.distance[0],
        statistics=statistics,
        batch_size=len(target),
    )


def freeze_statistics(model: nn.Module) -> None:
    """Put every BN layer of the model in evaluation mode; the caller restores."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
