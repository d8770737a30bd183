"""A model, batches, and how the one is run on the other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from xhat.batches import Forward, each_batch, run_batch
from xhat.errors import DataError
from xhat.surgery._recalibrate.ranks import Ranks


@dataclass(frozen=True)
class Job:
    """What stays the same over all passes."""

    model: nn.Module
    norms: dict[str, _BatchNorm]  # by full name
    batches: Iterable[Any]
    limit: int | None
    sequential: bool
    forward: Forward | None
    ranks: Ranks

    def each(self) -> Iterator[Any]:
        """Yield the batches; there may be none where other ranks may have some.

        Raises:
            UsageError: see ``each_batch``.
            DataError: there is not one batch.
        """
        source = each_batch(self.batches, limit=self.limit)
        try:
            first = next(source)
        except DataError:
            if self.ranks.size > 1:
                return
            raise
        yield first
        yield from source

    def run(self, batch: Any, place: int = 0) -> Any:
        """Run the model on one batch, the one of that number."""
        return run_batch(self.model, batch, self.forward, place=place)
