"""Name channels in messages and evidence."""

from torch import Tensor

SHOWN = 8  # channels that evidence names


def first(mask: Tensor) -> list[int]:
    """Return the numbers of the first channels where the mask, (C,) of bool, is true."""
    return [int(channel) for channel in mask.nonzero().flatten()[:SHOWN]]


def named(mask: Tensor) -> str:
    """Return the same as words: “3, 17, 40, …”."""
    more = ", …" if int(mask.sum()) > SHOWN else ""
    return ", ".join(map(str, first(mask))) + more
