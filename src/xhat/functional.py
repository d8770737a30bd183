"""Batch normalization as a function."""

from torch import Tensor

from xhat import reference
from xhat.reference import Activation


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
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

    The arguments up to ``eps`` are those of :func:`torch.nn.functional.batch_norm`, in its order and with
    its defaults. In training the batch's mean and biased variance normalise, and running statistics are
    updated in place: ``running = (1 − momentum) running + momentum batch``, with the unbiased variance.
    Unlike torch's function, evaluation without running statistics normalises with the batch's (as torch's
    layers do), ``eps`` may be 0, and vmap, jacrev and jvp work in training, given no running statistics
    or ones that are arguments of the transformed function.

    Args:
        x: (N, C) or (N, C, *), floating point.
        running_mean: (C,) or None; together with ``running_var`` or not at all.
        running_var: (C,) or None, unbiased.
        weight: (C,), γ; 1 if None.
        bias: (C,), β; 0 if None.
        training: Normalise with the batch's statistics and update the running ones.
        momentum: Weight of the new batch in the running statistics.
        eps: Added to the variance.
        activation: None, "relu", "leaky_relu" (slope 0.01), ("leaky_relu", slope), "silu", "gelu",
            "sigmoid", "tanh" or "hardswish".
        residual: Shape of ``x``, added before the activation.
        mask: (N,) or (N, *), without the channel axis: the positions that are data (True, or not 0).
            Statistics run over these only; the output elsewhere is 0.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: One value per channel where batch statistics are needed, or an argument whose shape or
            name does not fit.
        RuntimeError: A parameter or running statistic that is not of shape (C,).
        NotImplementedError: ``x`` is not floating point.

    Source: [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, Alg. 1 and 2.
    """
    return reference.batch_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        activation=activation,
        residual=residual,
        mask=mask,
    )
