"""One pass over the batches on every rank, and what came of it."""

import logging
from collections.abc import Callable
from functools import partial

from torch import Tensor

from xhat.batches import can_repeat
from xhat.errors import DataError, UsageError
from xhat.surgery._recalibrate.found import Found, merged, packed, packed_length
from xhat.surgery._recalibrate.job import Job
from xhat.surgery._recalibrate.observe import Observer, SingleValue
from xhat.surgery._recalibrate.plan import Pass

logger = logging.getLogger(__name__)


def run_pass(job: Job, step: Pass, number: int, passes: int, advance: Callable[[int], None]) -> Found:
    """Go through the batches once, and merge with what the other ranks saw."""
    channels = {name: norm.num_features for name, norm in job.norms.items()}
    observer = Observer(step)

    def work() -> Tensor:
        if passes > 1 and not can_repeat(job.batches):
            raise UsageError(
                f"sequential=True takes {passes} passes over the batches here, as many as batch norms follow one "
                "another, and an iterator can be gone through only once: pass a list or a DataLoader"
            )
        with observer.watching(job.norms):
            for place, batch in enumerate(job.each()):
                observer.run(partial(job.run, batch, place))
                advance(number)
        return packed(observer, channels)

    found = merged(job.ranks.share(work, packed_length(channels)), channels)
    _check(found, observer.single, spared=not job.sequential)
    return found


def _check(found: Found, single: SingleValue | None, *, spared: bool) -> None:
    """Refuse a pass without a batch, and tell of those that were left out."""
    if not found.batches and not found.skipped:
        raise DataError("there are no batches, on no rank")
    where = (
        f"batch norm {single.layer!r} (input {single.shape})" if single else "a batch norm, on other ranks"
    )
    if not found.batches:
        other = ", or sequential=True, which normalises with running statistics" if spared else ""
        raise DataError(
            f"each of the {found.skipped} batches leaves less than two values a channel at {where}, and nothing can "
            f"be normalised by the statistics of one value. Nothing was changed. Take larger batches{other}."
        )
    if found.skipped:
        logger.warning(
            "%d of %d batches were left out: less than two values a channel at %s",
            found.skipped,
            found.skipped + found.batches,
            where,
        )
