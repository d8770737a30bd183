"""Random inputs like those given, and random parameters and statistics for batch norms."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xhat.norms import normalisers


def values_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return random values of the same mean and spread; of integers, the same ones in another order."""
    if not tensor.is_floating_point():
        order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
        return tensor.flatten()[order].view(tensor.shape)
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    spread = tensor.std() if tensor.numel() > 1 else tensor.new_ones(())
    return noise * torch.where(spread > 0, spread, torch.ones_like(spread)) + tensor.mean()


@contextmanager
def randomised_norms(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """While the block runs the model, give each batch norm random parameters and statistics as it is called."""

    def number(like: Tensor, low: float, high: float) -> Tensor:
        return (torch.rand(like.shape, generator=generator) * (high - low) + low).to(like)

    @torch.no_grad()
    def randomise(norm: nn.Module, args: tuple[Any, ...]) -> None:
        if not isinstance(getattr(norm, "running_mean", None), Tensor):
            return
        mean, var = norm.running_mean, norm.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(var, Tensor)
        x = args[0] if args and isinstance(args[0], Tensor) else None
        if x is not None and x.dim() > 1 and x.shape[1] == mean.numel() and x.numel() > mean.numel():
            seen = x.detach().to(var.dtype).movedim(1, 0).flatten(1)
            spread = seen.var(1, correction=0)
            spread = spread + 0.1 * spread.mean() + 1e-6
            mean.copy_(seen.mean(1) + number(mean, -0.5, 0.5) * spread.sqrt())
            var.copy_(spread * number(var, 0.5, 2.0))
        else:
            mean.copy_(number(mean, -0.5, 0.5))
            var.copy_(number(var, 0.5, 2.0))
        weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        if isinstance(weight, Tensor):
            sign = torch.where(number(weight, 0.0, 1.0) < 0.2, -1.0, 1.0)
            weight.copy_(number(weight, 0.5, 1.5) * sign)
        if isinstance(bias, Tensor):
            bias.copy_(number(bias, -0.5, 0.5))

    handles = [norm.register_forward_pre_hook(randomise) for norm in normalisers(model).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
