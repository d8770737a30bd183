"""Many fully connected networks of one shape, trained as one batched computation.

Small networks leave a processor waiting: a step costs what its Python calls cost. An ensemble keeps the
weights of all members in one tensor a layer and moves them with one batched matrix product. Each member
computes what its own module would, to float rounding; torch's own batch_norm does the normalising, with
the units of all members as its channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xhat.errors import UsageError
from xhat.models.mlp import MLP, DeepLinear
from xhat.models.noise import DistributionNoise


class EnsembleLinear(nn.Module):
    """One linear layer of every member.

    Shapes: input (members, in, N), or (groups, in, N) where each group of members/groups neighbours
    shares its input; output (members, out, N).
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        has_bias = layers[0].bias is not None
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers])) if has_bias else None

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


class EnsembleBatchNorm(nn.Module):
    """One batch normalization of every member, by torch's own kernel. Shapes: (members, C, N) both ways."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layers: Sequence[nn.BatchNorm1d]) -> None:
        super().__init__()
        first = layers[0]
        self.eps, self.momentum = first.eps, first.momentum
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))
        # An MLP's BN always tracks its statistics.
        self.register_buffer("running_mean", torch.stack([layer.running_mean for layer in layers]))  # type: ignore[misc]
        self.register_buffer("running_var", torch.stack([layer.running_var for layer in layers]))  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        members, channels, samples = x.shape
        out = F.batch_norm(
            x.reshape(1, members * channels, samples),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            training=self.training,
            momentum=self.momentum if self.momentum is not None else 0.1,
            eps=self.eps,
        )
        return out.view(members, channels, samples)


class EnsembleLayerNorm(nn.Module):
    """One layer normalization of every member. Shapes: (members, C, N) both ways."""

    def __init__(self, layers: Sequence[nn.LayerNorm]) -> None:
        super().__init__()
        self.eps = layers[0].eps
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        # Turned so that units come last: torch's kernel on a copy beats sums over a strided axis.
        normalised = F.layer_norm(x.transpose(1, 2), x.shape[1:2], eps=self.eps).transpose(1, 2)
        out: Tensor = normalised * self.weight[..., None] + self.bias[..., None]
        return out


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
            nn.Sequential(*(_stack(list(parts)) for parts in zip(*blocks, strict=True)))
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
                f"member {index} is unlike member 0: one shape, one norm and one activation are needed to "
                f"stack them. Member 0: {first}\nMember {index}: {module}"
            )


def _shape(module: nn.Module) -> list[object]:
    parts = [(name, type(part)) for name, part in module.named_modules()]
    return [*parts, *(parameter.shape for parameter in module.parameters())]


def _stack(parts: list[nn.Module]) -> nn.Module:
    first = parts[0]
    if isinstance(first, nn.Linear):
        return EnsembleLinear(parts)  # type: ignore[arg-type]
    if isinstance(first, nn.BatchNorm1d):
        return EnsembleBatchNorm(parts)  # type: ignore[arg-type]
    if isinstance(first, nn.LayerNorm):
        return EnsembleLayerNorm(parts)  # type: ignore[arg-type]
    if isinstance(first, DistributionNoise):
        return DistributionNoise(first.channels, members=len(parts))
    if isinstance(first, nn.Sequential):
        return nn.Sequential(*(_stack(list(inner)) for inner in zip(*parts, strict=True)))
    if not list(first.parameters()) and not list(first.buffers()):
        return first
    name = type(first).__name__
    raise UsageError(f"an ensemble cannot hold {name}: it knows linear layers, BN and LayerNorm")
