"""What layers saw in a pass, as one vector that ranks exchange, and merged again."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from xhat.moments import Moments
from xhat.surgery._recalibrate.observe import Observer


@dataclass(frozen=True)
class Found:
    """What the layers saw in one pass, over all ranks."""

    moments: dict[str, Moments]  # of layers that saw something
    seen: dict[str, int]  # batches, by layer
    batches: int
    skipped: int


def packed_length(channels: Mapping[str, int]) -> int:
    """Return the length of what ``packed`` makes."""
    return 2 + sum(2 + 2 * count for count in channels.values())


def packed(observer: Observer, channels: Mapping[str, int]) -> Tensor:
    """Return a pass of this rank as one float64 vector; its layout depends on the layers alone."""
    parts = [torch.tensor([observer.batches, observer.skipped], dtype=torch.float64)]
    for name, count in channels.items():
        found = observer.moments.get(name)
        if found is None:
            parts.append(torch.zeros(2 + 2 * count, dtype=torch.float64))
        else:
            head = torch.tensor([found.count, observer.seen[name]], dtype=torch.float64)
            parts += [head, found.mean.cpu(), found.m2.cpu()]
    return torch.cat(parts)


def merged(ranks: list[Tensor], channels: Mapping[str, int]) -> Found:
    """Merge what the ranks packed, by count and in rank order, so that all get the same bits."""
    lengths = [2, *(n for count in channels.values() for n in (2, count, count))]
    pieces = [values.split_with_sizes(lengths) for values in ranks]
    moments, seen = {}, {}
    for place, name in enumerate(channels):
        own = [piece[1 + 3 * place : 4 + 3 * place] for piece in pieces]
        parts = [Moments(int(head[0]), mean, m2) for head, mean, m2 in own if head[0] > 0]
        if parts:
            moments[name] = reduce(add, parts)
            seen[name] = sum(int(head[1]) for head, _, _ in own)
    batches, skipped = (sum(int(piece[0][i]) for piece in pieces) for i in (0, 1))
    return Found(moments, seen, batches, skipped)


def all_of(passes: list[Found]) -> Found:
    """Return what all passes found together; a layer is of one pass only."""
    return Found(
        {name: moments for found in passes for name, moments in found.moments.items()},
        {name: seen for found in passes for name, seen in found.seen.items()},
        batches=min(found.batches for found in passes),
        skipped=max(found.skipped for found in passes),
    )
