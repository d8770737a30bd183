"""Run a user's model on a user's batch, and say whose failure it is when it fails."""

from collections.abc import Callable
from typing import Any

from torch import nn

from xhat.batches import describe, run_batch
from xhat.errors import ModelError, XhatError

Forward = Callable[[nn.Module, Any], Any]


def run(model: nn.Module, batch: Any, forward: Forward | None = None, *, place: int = 0) -> Any:
    """Return the model's output on one batch.

    Args:
        model: Is run in the mode it has.
        batch: What ``xhat.batches.run_batch`` takes.
        forward: Called as ``forward(model, batch)`` where given.
        place: The batch's number, from 0, for the message.

    Raises:
        ModelError: the model raised; the message names the mode, the batch and what was raised.
    """
    try:
        return run_batch(model, batch, forward)
    except XhatError:
        raise
    except Exception as error:
        mode = "training" if model.training else "evaluation"
        raise ModelError(
            f"{type(model).__name__} failed in {mode} mode on batch {place} ({describe(batch)}): "
            f"{type(error).__name__}: {error}. The doctor needs batches that the model can be trained on."
        ) from error
