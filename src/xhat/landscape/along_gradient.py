"""How the loss and its gradient change along the gradient: the measures of [S], figure 4."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xhat.errors import UsageError
from xhat.landscape._walk import Floats, walk
from xhat.models.ensemble import EnsembleBatchNorm
from xhat.unchanged import State, unchanged

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
    batch_size: int  # length of the target, or of the input if the target is no tensor; 0 if neither is

    @property
    def beta(self) -> Floats:
        """Shape (E,): ‖g - ∇L(w - ηg)‖ / (η‖g‖), the change of the gradient per distance moved.

        NaN at a stationary point.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.predictiveness / (self.steps * self.gradient_norm))

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

    At every step the same batch, the same random numbers (dropout) and the same state of the model are
    used: the loss is a function of the weights alone. The model is left bit for
    bit as it was, also if ``loss_fn`` raises: weights, buffers, gradients, modes, random state.

    Args:
        model: Any network with parameters that require a gradient.
        loss_fn: ``loss_fn(model(input), target)``, a scalar.
        batch: ``(input, target)``.
        steps: Step sizes η > 0; [S] takes 1/2 to 4 times the learning rate.
        statistics: "batch": BN normalises with the batch's statistics, as in training. "frozen": BN
            normalises with its running statistics, everything else as in training.

    Raises:
        UsageError: no step sizes or one that is not positive, an unknown policy, "frozen" with a BN layer
            that has no running statistics, no parameter that requires a gradient, or a loss that is not
            a scalar or has no gradient.

    Source: Santurkar et al. 2018, arXiv 1805.11604, sec. 3.1 and figure 4.
    """
    sizes = np.array(steps, dtype=np.float64)
    if sizes.ndim != 1 or not len(sizes) or not ((sizes > 0) & np.isfinite(sizes)).all():
        raise UsageError(f"steps must be a sequence of positive step sizes, got {steps!r}")
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
        state = State(model, without=parameters)

        def losses() -> Tensor:
            state.restore()
            return _checked(loss_fn(model(inputs), target))

        found = walk(parameters, losses, torch.from_numpy(sizes)[None])
    return AlongGradient(
        steps=sizes,
        start_loss=float(found.start_loss[0]),
        loss=found.loss[0],
        gradient_norm=float(found.gradient_norm[0]),
        weight_norm=float(found.weight_norm[0]),
        predictiveness=found.distance[0],
        statistics=statistics,
        batch_size=next((len(t) for t in _tensors((target, inputs)) if t.dim()), 0),
    )


def freeze_statistics(model: nn.Module) -> None:
    """Put every BN layer of the model in evaluation mode; the caller restores.

    Raises:
        UsageError: a BN layer has no running statistics.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | EnsembleBatchNorm):
            if module.running_mean is None:
                raise UsageError(
                    f"BN layer {name!r} has no running statistics (track_running_stats=False) and would use "
                    "the batch's in evaluation mode too: take statistics='batch'"
                )
            module.eval()


def _checked(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise UsageError(
            f"loss_fn returned {'a tensor' if isinstance(loss, Tensor) else type(loss).__name__} without a "
            "gradient; a walk differentiates the loss: return it before .item() or .detach()"
        )
    if loss.numel() != 1:
        raise UsageError(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}; a walk needs one number a "
            "batch, or its gradient mixes the samples: reduce it, e.g. with .mean()"
        )
    return loss.reshape(1)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict | list | tuple):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)
