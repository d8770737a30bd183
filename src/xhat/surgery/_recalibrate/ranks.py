"""Work that every rank of torch.distributed does, and its results in rank order; or one process by itself."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from xhat.errors import DataError, UsageError


class Ranks:
    """The processes that recalibrate, or diagnose, together.

    Args:
        group: The process group; None for the default group, or for this process alone where
            ``torch.distributed`` is not initialised.
        device: The model's; NCCL gathers there, other backends on the CPU.

    Raises:
        UsageError: this process is not in the group.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self._group = group
        together = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size(group) if together else 1
        if self.size < 1:
            raise UsageError("this process is not in process_group: call this on its members only")
        on_device = together and "nccl" in dist.get_backend(group)
        self._device = device if on_device else torch.device("cpu")

    def share(self, work: Callable[[], Tensor], length: int, *, what: str = "recalibration") -> list[Tensor]:
        """Do the work and return every rank's result, (length,) float64 each, by one collective.

        A rank whose work fails takes part all the same, or the others would wait for it until the time-out.

        Raises:
            DataError: the work of another rank failed.
        """
        if self.size == 1:
            return [work()]
        sent = torch.zeros(1 + length, dtype=torch.float64)  # the first says whether it failed
        try:
            sent[1:] = work()
        except Exception:
            sent[0] = 1
            self._gather(sent)
            raise
        received = self._gather(sent)
        failed = [str(rank) for rank, values in enumerate(received) if values[0]]
        if failed:
            raise DataError(
                f"{what} failed on rank {', '.join(failed)}, whose own error says why; "
                "nothing was changed on any rank"
            )
        return [values[1:] for values in received]

    def _gather(self, sent: Tensor) -> list[Tensor]:
        sent = sent.to(self._device)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent, group=self._group)
        return [values.cpu() for values in received]
