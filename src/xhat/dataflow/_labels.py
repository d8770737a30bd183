"""Which channel each element had before data was moved: operations are done again on labels."""

import torch
from torch import Tensor

from xhat.dataflow.parts import TENSOR, Access, Op


def labels_along(source: Access, axis: int, path: tuple[Op, ...], read: Access) -> Tensor:
    """Return, for each element that is read after some operations that moved data, its channel in the source.

    Args:
        source: The tensor as it was made.
        axis: The channels' axis there.
        path: The operations, in their order.
        read: The tensor as it is read.

    Returns:
        int64, of the shape that is read; −1 where the element is none of the source's.
    """
    memory = _memory_of(source)
    shape = [1] * len(source.size)
    shape[axis] = -1
    channels = torch.arange(source.size[axis]).view(shape).expand(source.size)
    _seen(memory, source).copy_(channels)
    for op in path:
        moving = op.moving
        assert moving is not None
        given = _seen(_grown(memory, op.reads[0]), op.reads[0])
        args = tuple(given if arg is TENSOR else arg for arg in moving.args)
        moved = moving.function(*args, **moving.kwargs)
        memory = _memory_of(op.made[0])
        _seen(memory, op.made[0]).copy_(moved)
    return _seen(_grown(memory, read), read).clone()


def _needed(access: Access) -> int:
    if 0 in access.size:
        return access.offset
    reach = sum((size - 1) * stride for size, stride in zip(access.size, access.stride, strict=True))
    return access.offset + reach + 1


def _memory_of(access: Access) -> Tensor:
    return torch.full((_needed(access),), -1, dtype=torch.int64)


def _grown(memory: Tensor, access: Access) -> Tensor:
    more = _needed(access) - memory.numel()
    return torch.cat([memory, memory.new_full((more,), -1)]) if more > 0 else memory


def _seen(memory: Tensor, access: Access) -> Tensor:
    return memory.as_strided(access.size, access.stride, access.offset)
