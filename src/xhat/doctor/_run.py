"""Run a user's model on a user's batch, and say whose failure it is when it fails."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from xhat.batches import describe, each_batch, run_batch
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


class Limited:
    """At most ``limit`` batches, which can be gone through again and again."""

    def __init__(self, batches: Iterable[Any], limit: int | None) -> None:
        # A used-up iterator cannot be asked twice, so its batches are kept.
        self._batches = batches if _repeats(batches) else list(each_batch(batches, limit=limit))
        self._limit = limit
        self.count = 0  # batches of the longest pass so far

    def __iter__(self) -> Iterator[Any]:
        for place, batch in enumerate(each_batch(self._batches, limit=self._limit), 1):
            self.count = max(self.count, place)
            yield batch


def _repeats(batches: Any) -> bool:
    """Whether the batches can be gone through again; what is no iterable at all is refused at its first use."""
    return not isinstance(batches, Iterator)
