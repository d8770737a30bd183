"""Copies of models that ``copy.deepcopy`` alone refuses."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from xhat.trees import tensors_in


def duplicate(model: nn.Module) -> nn.Module:
    """Return a deep copy; of tensors with a gradient history, which deepcopy refuses, without the history.

    Modules keep such ones as attributes after a forward pass: a cached feature, the weight of
    ``torch.nn.utils.weight_norm``. It refuses the statistics of a lazy batch norm too.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in tensors_in(vars(module)):
            if id(tensor) not in memo and (copied := _copied(tensor, memo)) is not None:
                memo[id(tensor)] = copied
    return copy.deepcopy(model, memo)


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor | None:
    """Return the copy of a tensor that deepcopy refuses, or None; memory that tensors share stays shared."""
    if isinstance(tensor, UninitializedBuffer):
        return UninitializedBuffer(device=tensor.device, dtype=tensor.dtype)  # type: ignore[call-arg]
    return None if tensor.is_leaf else copy.deepcopy(tensor.detach(), memo)
