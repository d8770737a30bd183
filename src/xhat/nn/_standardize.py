"""Inputs standardised by the formula of batch norm, with statistics fitted to data once."""

from collections.abc import Iterable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from xhat.errors import DataError, ModelError, unknown
from xhat.reference import Moments, batch_moments


class Standardize(nn.Module):
    """x̂ = (x − μ)/√(σ² + ε), with mean and biased variance of the training data.

    Make one with :meth:`fit` and put it before the first layer::

        net = nn.Sequential(Standardize.fit(train_loader), net)

    ``Standardize(shape)`` alone is unfitted, for ``load_state_dict``. The buffers ``mean``, ``var`` (biased)
    and ``count`` are part of the ``state_dict``; training does not change them.

    Args:
        shape: (C,) or C for statistics per channel, the shape of one sample for statistics per feature.
        eps: Added to the variance, so that a constant feature gives 0.
        device: Of the buffers.
        dtype: Of ``mean`` and ``var``.

    Source: the formula of [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, Alg. 2, with fixed statistics.
    """

    mean: Tensor  # shape
    var: Tensor  # shape, biased
    count: Tensor  # (), int64: values behind each statistic; 0 if unfitted

    def __init__(
        self,
        shape: int | Iterable[int],
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}: a constant feature would be divided by 0.")
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.eps = eps
        self.register_buffer("mean", torch.zeros(self.shape, device=device, dtype=dtype))
        self.register_buffer("var", torch.ones(self.shape, device=device, dtype=dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64, device=device))
        # A flag, since reading count in every forward would wait for the device and break a graph.
        self._fitted = False
        self.register_load_state_dict_post_hook(_note_loaded)  # type: ignore[no-untyped-call]

    @classmethod
    def fit(
        cls,
        data: Tensor | Iterable[Any],
        *,
        per: Literal["channel", "feature"] = "channel",
        eps: float = 1e-5,
    ) -> Self:
        """Return a module fitted to ``data``, the same to rounding for any batching of it.

        Args:
            data: A tensor (N, C, *), or an iterable of batches such as a DataLoader: tensors (N, C, *), or
                tuples or lists that begin with one. Read once, in float64, batch by batch.
            per: "channel": one mean and variance per index of axis 1, over samples and positions, as batch
                norm does. "feature": one for every value of a sample. The same for data of shape (N, C).
            eps: Added to the variance.

        Raises:
            DataError: No values, batches of different shapes, or values that are not finite.
            TypeError: A batch that is no tensor, or a Dataset, which yields samples and not batches.
            UsageError: An unknown ``per``.
        """
        if per not in ("channel", "feature"):
            raise unknown("kind of statistics per", per, ["channel", "feature"])
        if isinstance(data, Dataset):
            raise TypeError(
                f"got a {type(data).__name__}, which yields single samples: their first axis would be taken"
                " for the batch. Wrap it: Standardize.fit(DataLoader(dataset, batch_size=256))."
            )
        first, total = _merge([data] if isinstance(data, Tensor) else data, per)
        shape = first.shape[1:2] if per == "channel" else first.shape[1:]
        dtype = torch.promote_types(first.dtype, torch.float32)
        module = cls(shape, eps, device=first.device, dtype=dtype)
        module.mean.copy_(total.mean.reshape(shape))
        module.var.copy_(total.var.reshape(shape))
        module.count.copy_(total.count)
        module._fitted = True
        return module

    def forward(self, x: Tensor) -> Tensor:
        """Standardise ``x``, whose axes after the first begin with ``shape``.

        The output has the dtype of ``x``, or for integers that of the buffers.

        Raises:
            ModelError: The module is unfitted.
            ValueError: ``x`` does not have the channels or features of the data it was fitted to.
        """
        if not self._fitted:
            raise ModelError(
                "Standardize is not fitted: with mean 0 and variance 1 it would pass its input on unchanged"
                " and hide that. Use Standardize.fit(data), or load a state_dict of a fitted one."
            )
        rank = len(self.shape)
        if x.shape[1 : 1 + rank] != self.shape:
            raise ValueError(
                f"input of shape {tuple(x.shape)} does not fit statistics of shape {self.shape}, which belong"
                " to the axes after the first. Give batches shaped like the data it was fitted to."
            )
        dtype = torch.promote_types(x.dtype, torch.float32)
        shape = self.shape + (1,) * (x.dim() - 1 - rank)
        scale = torch.rsqrt(self.var.to(dtype) + self.eps).reshape(shape)
        out = (x.to(dtype) - self.mean.to(dtype).reshape(shape)) * scale
        return out.to(x.dtype if x.is_floating_point() else self.mean.dtype)

    def extra_repr(self) -> str:
        """Shape and eps, and whether it is fitted."""
        return f"{self.shape}, eps={self.eps}" + ("" if self._fitted else ", unfitted")


def _note_loaded(module: nn.Module, _incompatible_keys: object) -> None:
    assert isinstance(module, Standardize)
    module._fitted = bool(module.count > 0)


def _merge(batches: Iterable[Any], per: str) -> tuple[Tensor, Moments]:
    """Return the first batch, for its shape and device, and the moments of all, flat."""
    total: Moments | None = None
    first: Tensor | None = None
    for batch in batches:
        x = _inputs(batch)
        first = x if first is None else first
        same = 2 if per == "channel" else None
        if x.dim() < 2 or x.shape[1:same] != first.shape[1:same]:
            axes = "C" if per == "channel" else "(C, *)"
            raise DataError(
                f"a batch of shape {tuple(x.shape)} after one of shape {tuple(first.shape)}: statistics per"
                f" {per} need batches (N, C, *) that agree in {axes}."
            )
        if x.numel() == 0:
            continue
        # On the CPU, since some devices have no float64.
        values = x.detach().to("cpu", torch.float64)
        moments = batch_moments(values if per == "channel" else values.flatten(1))
        total = moments if total is None else total.merge(moments)
    if first is None or total is None:
        raise DataError("no values to fit to: the data is empty, or an iterator already used up.")
    bad = ~(total.mean.isfinite() & total.var.isfinite())
    if bad.any():
        raise DataError(
            f"values that are not finite in {int(bad.sum())} of {bad.numel()} channels or features, first at"
            f" {bad.nonzero().flatten()[:5].tolist()}: they would make every standardised value there NaN."
            " Remove or fill them first."
        )
    return first, total


def _inputs(batch: object) -> Tensor:
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, Tensor):
        raise TypeError(
            f"a batch of type {type(batch).__name__} has no input tensor; a batch is a tensor, or a tuple or"
            " list that begins with one. For others give a generator, e.g. (b['image'] for b in loader)."
        )
    return x
