"""Many fully connected networks of one shape, trained as one batched computation.

Small networks leave a processor waiting: a step costs what its Python calls cost. An ensemble keeps the
weights of all members in one tensor a layer and moves them with one batched matrix product. Each member
computes what its own module would, to float rounding; torch's own batch_norm does the normalising, with
the units of all members as its channels.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xhat.errors import UsageError
from xhat.models._ensemble_norms import (
    EnsembleBatchNorm,
    EnsembleGhostBatchNorm,
    EnsembleLayerNorm,
    EnsembleLpNorm,
    stack,
)
from xhat.models.ghost import GhostBatchNorm
from xhat.models.lp_norm import LpNorm
from xhat.models.mlp import MLP, DeepLinear
from xhat.models.noise import DistributionNoise

__all__ = [
    "Ensemble",
    "EnsembleBatchNorm",
    "EnsembleGhostBatchNorm",
    "EnsembleLayerNorm",
    "EnsembleLinear",
    "EnsembleLpNorm",
]


class EnsembleLinear(nn.Module):
    """One linear layer of every member.

    Shapes: input (members, in, N), or (groups, in, N) where each group of members/groups neighbours
    shares its input; output (members, out, N).
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = stack([layer.bias for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        members, outputs, inputs = self.weight.shape
        groups = x.shape[0]
        if members % groups:
            raise UsageError(
                f"an input of shape {tuple(x.shape)} has {groups} groups, and {members} members do not "
                "divide into them: give (members, features, N), or (groups, features, N)"
            )
        # Members of a group stand side by side, so that their weights are one taller matrix.
        weight = self.weight.view(groups, -1, inputs)
        if self.bias is None:
            return torch.bmm(weight, x).view(members, outputs, -1)
        return torch.baddbmm(self.bias.view(groups, -1, 1), weight, x).view(members, outputs, -1)


class Ensemble(nn.Module):
    """Members of one shape as one network; weights and running statistics are copied from the modules given.

    Shapes: input (members, inputs, N) or (groups, inputs, N) as in ``EnsembleLinear``; output
    (members, classes, N).

    Attributes:
        members: How many networks; every parameter has them as its first axis.

    Raises:
        UsageError: no members; a member that is neither an ``MLP`` nor a ``DeepLinear``, is unlike the
            first, or has a layer that an ensemble does not know; an input whose groups do not divide the
            members.
    """

    def __init__(self, modules: Sequence[MLP | DeepLinear]) -> None:
        super().__init__()
        if not modules:
            raise UsageError("an ensemble needs one member at least, and got none")
        _check_alike(modules)
        self.members = len(modules)
        self.hidden = nn.ModuleList(
            nn.Sequential(*(_stack(parts) for parts in zip(*blocks, strict=True)))
            for blocks in zip(*(module.hidden for module in modules), strict=True)
        )
        self.output = _stack([module.output for module in modules])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x)
        out: Tensor = self.output(x)
        return out


def _check_alike(modules: Sequence[nn.Module]) -> None:
    first = modules[0]
    for index, module in enumerate(modules):
        if not isinstance(module, MLP | DeepLinear):
            raise UsageError(
                f"member {index} is a {type(module).__name__}; an ensemble stacks MLP or DeepLinear"
            )
        if _shape(module) != _shape(first):
            raise UsageError(
                f"member {index} is unlike member 0: one shape, one norm and the same options are needed to "
                f"stack them. Member 0: {first}\nMember {index}: {module}"
            )


def _shape(module: nn.Module) -> list[object]:
    # The repr's part tells apart what is no parameter: the rate of dropout, a ghost's chunk.
    parts = [(name, type(part), part.extra_repr()) for name, part in module.named_modules()]
    return [*parts, *(parameter.shape for parameter in module.parameters())]


_STACKED: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Linear: EnsembleLinear,
    nn.BatchNorm1d: EnsembleBatchNorm,
    nn.LayerNorm: EnsembleLayerNorm,
    LpNorm: EnsembleLpNorm,
    GhostBatchNorm: EnsembleGhostBatchNorm,
}


def _stack(parts: Sequence[nn.Module]) -> nn.Module:
    first = parts[0]
    if type(first) in _STACKED:
        return _STACKED[type(first)](parts)
    if isinstance(first, DistributionNoise):
        return DistributionNoise(first.channels, members=len(parts))
    if isinstance(first, nn.Sequential):
        return nn.Sequential(*(_stack(inner) for inner in zip(*parts, strict=True)))
    if not list(first.parameters()) and not list(first.buffers()):
        # A copy, since the ensemble's mode is its own: dropout depends on it.
        return copy.deepcopy(first).train()
    known = ", ".join(kind.__name__ for kind in _STACKED)
    raise UsageError(
        f"an ensemble cannot hold {type(first).__name__}: it knows {known}, and layers without parameters. "
        "Train such members one by one"
    )
