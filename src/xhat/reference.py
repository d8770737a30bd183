"""Batch normalization in plain torch operations, straight from the formula.

    x̂ = (x − μ) / √(σ² + ε),   y = γ x̂ + β,   out = activation(y + residual)

with μ and the biased σ² taken per channel over the batch and all positions (training), or running
estimates of them (evaluation). Every faster way is held against this one; double backward, forward-mode
AD and ``torch.func`` (vmap, grad, jacrev, jvp) run through it.

Source: [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, Alg. 1 (training) and Alg. 2 (inference).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xhat.errors import unknown

Activation = str | tuple[str, float] | None  # a name, or ("leaky_relu", slope)

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # slope 0.01
    "silu": F.silu,
    "gelu": F.gelu,  # the exact one, with erf
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
}


@dataclass(frozen=True)
class Moments:
    """Mean, biased variance and count of some values, per channel."""

    mean: Tensor  # (C,)
    var: Tensor  # (C,), biased: the mean of the centred squares
    count: Tensor  # (), int64: values per channel

    @property
    def unbiased_var(self) -> Tensor:
        """The variance times m/(m−1), (C,); 0 for a single value."""
        return self.var * self.count / (self.count - 1).clamp(min=1)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of values together, by Chan's formula.

        Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
        """
        count = self.count + other.count
        share = other.count.to(self.mean.dtype) / count
        delta = other.mean - self.mean
        # M2 = M2ₐ + M2ᵦ + δ² nₐnᵦ/n, divided by n
        var = self.var + (other.var - self.var) * share + delta.square() * (share * (1 - share))
        return Moments(self.mean + delta * share, var, count)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Normalise each channel: ``activation(γ (x − μ)/√(σ² + ε) + β + residual)``.

    Statistics are those of the batch if ``training`` or without running statistics, else the running
    ones. They are computed in float32, or float64 for float64 input; the output has the dtype of ``x``.
    In training the running statistics are updated in place by torch's convention,
    ``running = (1 − momentum) running + momentum batch``, with the unbiased variance; the batch itself is
    normalised with the biased one.

    Args:
        x: (N, C) or (N, C, *), floating point.
        running_mean: (C,); given together with ``running_var`` or not at all.
        running_var: (C,), unbiased.
        weight: (C,), γ; 1 if None.
        bias: (C,), β; 0 if None.
        training: Normalise with the batch's statistics and update the running ones.
        momentum: Weight of the new batch in the running statistics.
        eps: Added to the variance. 0 is allowed, unlike in torch, since the scale invariances are exact
            only there; a constant channel then gives NaN.
        activation: One of ``ACTIVATIONS``, or ``("leaky_relu", slope)``.
        residual: Shape of ``x``, added before the activation.
        mask: (N,) or (N, *), without the channel axis: the positions that are data (True, or not 0), as
            opposed to padding. Statistics run over these only, their count is m, and the output
            elsewhere is 0, whatever ``x`` and ``residual`` hold there, NaN included.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: ``x`` of fewer than 2 dimensions; one value per channel where batch statistics are
            needed; ``residual`` or ``mask`` of a shape that does not fit; a negative ``eps``; an unknown
            ``activation``; one running statistic without the other.
        RuntimeError: A parameter or running statistic that is not of shape (C,); running statistics to be
            updated that a ``torch.func`` transform captured.
        NotImplementedError: ``x`` is not floating point.

    Under torch.func and torch.compile the number of values that a mask leaves is not checked, since that
    would need its value; with one value per channel x̂ is 0 and running statistics stay as they are.
    """
    function = activation_function(activation)
    _check_input(x, mask, eps)
    _check_channels(x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if residual is not None and residual.shape != x.shape:
        raise ValueError(
            f"residual of shape {tuple(residual.shape)} for an input of shape {tuple(x.shape)}. They are"
            " added value by value, and broadcasting would hide a wrong wiring; project or expand it first."
        )
    keep = _keep(x, mask)
    if training or running_mean is None or running_var is None:
        _check_count(x, keep)
        x_hat, moments = _standardize(x, eps, keep)
        if training and running_mean is not None and running_var is not None:
            enough = moments.count > 1  # fewer values teach nothing about a variance
            _update(running_mean, moments.mean, momentum, enough)
            _update(running_var, moments.unbiased_var, momentum, enough)
    else:
        scale = torch.rsqrt(running_var.to(_compute_dtype(x)) + eps)
        x_hat = (x.to(scale.dtype) - _over_channels(running_mean, x)) * _over_channels(scale, x)
    out = x_hat
    if weight is not None:
        out = out * _over_channels(weight, x)
    if bias is not None:
        out = out + _over_channels(bias, x)
    if residual is not None:
        out = out + residual.to(out.dtype)
    if function is not None:
        # Filled before as well as after: an activation's gradient at NaN is NaN even where none flows in.
        out = function(_fill(out, keep))
    return _fill(out, keep).to(x.dtype)


def standardize(x: Tensor, eps: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x̂, mean, biased variance), with x̂ = (x − μ)/√(σ² + ε) from the batch's own statistics.

    Args:
        x: (N, C) or (N, C, *), floating point.
        eps: Added to the variance; 0 is allowed.
        mask: As in :func:`batch_norm`; x̂ is 0 where it is.

    Returns:
        x̂ of the shape of ``x``, mean (C,), biased variance (C,), in float32 or better.

    Raises:
        ValueError: ``x`` of fewer than 2 dimensions, a mask that does not fit, a negative ``eps``.
        NotImplementedError: ``x`` is not floating point.
    """
    _check_input(x, mask, eps)
    x_hat, moments = _standardize(x, eps, _keep(x, mask))
    return x_hat, moments.mean, moments.var


def batch_moments(x: Tensor, mask: Tensor | None = None) -> Moments:
    """Return mean, biased variance and count per channel, in float32 or better.

    Args:
        x: (N, C) or (N, C, *), floating point.
        mask: As in :func:`batch_norm`.

    Raises:
        ValueError: ``x`` of fewer than 2 dimensions, or a mask that does not fit.
        NotImplementedError: ``x`` is not floating point.
    """
    _check_input(x, mask, eps=0.0)
    return _centre(x, _keep(x, mask))[1]


def activation_function(activation: Activation) -> Callable[[Tensor], Tensor] | None:
    """Return the function that an ``activation`` argument names.

    Raises:
        UsageError: No such activation (a ValueError).
    """
    if activation is None:
        return None
    if isinstance(activation, tuple):
        name, slope = activation
        if name == "leaky_relu":
            return lambda x: F.leaky_relu(x, slope)
        raise unknown("activation with a slope", name, ["leaky_relu"])
    if activation not in ACTIVATIONS:
        raise unknown("activation", str(activation), ACTIVATIONS)
    return ACTIVATIONS[activation]


def _centre(x: Tensor, keep: Tensor | None) -> tuple[Tensor, Moments]:
    """Return x − μ, 0 where masked out, and the moments, in two passes.

    A mean in float32 is off by its own rounding, which at a mean of 1e6 is 0.03. So a first mean is only
    a pivot, and the values minus the pivot are centred once more: μ = pivot + mean(x − pivot). That is
    the same function of x for any constant pivot, hence its gradients are unchanged by the detach.
    """
    values = x.to(_compute_dtype(x))
    dims = [0, *range(2, x.dim())]
    if keep is None:
        count = torch.full((), _values_per_channel(x), dtype=torch.int64, device=x.device)
    else:
        count = keep.expand(x.shape[0], 1, *x.shape[2:]).sum()

    def average(values: Tensor) -> Tensor:
        if keep is None:
            return values.mean(dims, keepdim=True)
        return _fill(values, keep).sum(dims, keepdim=True) / count.clamp(min=1)

    pivot = average(values.detach())
    shifted = _fill(values - pivot, keep)
    shift = average(shifted)
    centred = _fill(shifted - shift, keep)
    return centred, Moments((pivot + shift).flatten(), average(centred.square()).flatten(), count)


def _standardize(x: Tensor, eps: float, keep: Tensor | None) -> tuple[Tensor, Moments]:
    centred, moments = _centre(x, keep)
    return centred * _over_channels(torch.rsqrt(moments.var + eps), x), moments


def _update(running: Tensor, batch: Tensor, momentum: float, enough: Tensor) -> None:
    """Move a running statistic towards the batch's, in place and without a gradient."""
    old = running.to(torch.promote_types(running.dtype, batch.dtype))
    new = torch.where(enough, (1 - momentum) * old + momentum * batch.detach(), old)
    try:
        running.copy_(new)
    except RuntimeError as error:
        if not _is_traced():
            raise
        raise RuntimeError(
            "running statistics cannot be updated inside this torch.func transform: they were captured"
            " from outside, while the batch's statistics belong to the transform (under vmap there is"
            " one per sample). Use no running statistics (track_running_stats=False), evaluation mode,"
            " or hand the running statistics to the transformed function as arguments, batched under"
            " vmap like the input."
        ) from error


def _check_input(x: Tensor, mask: Tensor | None, eps: float) -> None:
    if not x.is_floating_point():
        raise NotImplementedError(
            f"batch norm of {x.dtype} input of shape {tuple(x.shape)}: normalised values are fractions, which"
            " only a floating-point type holds. Convert first, e.g. x.float()."
        )
    if x.dim() < 2:
        raise ValueError(
            f"expected input of shape (N, C) or (N, C, *), got {tuple(x.shape)}: statistics are taken per"
            " channel over the batch, and one of the two axes is missing. Add it, e.g. x.unsqueeze(0)."
        )
    if eps < 0:
        raise ValueError(f"eps must not be negative, got {eps}: a variance below it would give NaN.")
    if mask is not None and mask.shape not in (x.shape[:1], x.shape[:1] + x.shape[2:]):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} for an input of shape {tuple(x.shape)}: it says which samples"
            " or positions are data, the same for all channels. Reshape it, without the channel axis, to"
            f" {tuple(x.shape[:1])} or {(*x.shape[:1], *x.shape[2:])}."
        )


def _check_channels(x: Tensor, **tensors: Tensor | None) -> None:
    if (tensors["running_mean"] is None) != (tensors["running_var"] is None):
        raise ValueError(
            "running_mean and running_var must either both be None or neither be None: normalising takes"
            " both. Give the missing one, or neither for the batch's statistics."
        )
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != x.shape[1:2]:
            raise RuntimeError(
                f"{name} should contain {x.shape[1]} elements, got shape {tuple(tensor.shape)}, for an input"
                f" of shape {tuple(x.shape)}: there is one value per channel, and channels are axis 1. Set"
                " num_features to the channels of the layer before, or move the channels to axis 1."
            )


def _check_count(x: Tensor, keep: Tensor | None) -> None:
    count = values = _values_per_channel(x)
    if keep is not None and not _is_traced():
        count = int(keep.sum()) * (values // max(keep.numel(), 1))
    if values > 0 and count < 2:  # of an empty batch, as some workers get, torch makes an empty output
        masked = f", of which the mask leaves {count} per channel" if keep is not None else ""
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {list(x.shape)}{masked}."
            " The variance of a single value is 0, so the output would be the bias, whatever the input. Use a"
            " larger batch, drop the last incomplete one (drop_last=True), or evaluation mode."
        )


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _values_per_channel(x: Tensor) -> int:
    return math.prod(x.shape[:1] + x.shape[2:])


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    """Shape (C,) as (1, C, 1, …) in the dtype of the computation."""
    return values.to(_compute_dtype(x)).reshape(1, -1, *[1] * (x.dim() - 2))


def _keep(x: Tensor, mask: Tensor | None) -> Tensor | None:
    """Shape (N,) or (N, *) as bool (N, 1, 1, …) or (N, 1, *)."""
    if mask is None:
        return None
    return (mask != 0).reshape(mask.shape[0], 1, *(mask.shape[1:] or [1] * (x.dim() - 2)))


def _fill(values: Tensor, keep: Tensor | None) -> Tensor:
    """Set masked-out positions to 0; by choice, since 0 × NaN is NaN."""
    return values if keep is None else torch.where(keep, values, 0)


def _is_traced() -> bool:
    """Whether a tensor's value, or its in-place update, may be out of reach."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
