"""One pass over batches, in which batch norms tell the moments of what they see."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xhat.errors import DataError, XhatError
from xhat.moments import Moments
from xhat.norms import has_torch_forward
from xhat.surgery._recalibrate.plan import Pass


class SingleValue(XhatError):  # noqa: N818 - it ends a batch, it does not end the pass
    """A batch has one value a channel at a layer that normalises with the batch's statistics."""

    def __init__(self, layer: str, shape: tuple[int, ...]) -> None:
        super().__init__(layer, shape)
        self.layer, self.shape = layer, shape


class Observer:
    """What the layers of a pass have seen. A batch counts when it is kept, for all layers or for none."""

    def __init__(self, plan: Pass) -> None:
        self.moments: dict[str, Moments] = {}  # by layer
        self.seen: dict[str, int] = {}  # batches, by layer
        self.batches = 0
        self.skipped = 0
        self.single: SingleValue | None = None  # why the first batch was skipped
        self._plan = plan
        self._batch: dict[str, Moments] = {}

    def run(self, batch: Callable[[], object]) -> None:
        """Run one batch; what the layers saw is kept when it is through, and dropped if it cannot be."""
        self._batch = {}
        try:
            batch()
        except SingleValue as single:
            self.skipped += 1
            self.single = self.single or single
            return
        self.batches += 1
        for name, moments in self._batch.items():
            self.moments[name] = self.moments[name] + moments if name in self.moments else moments
            self.seen[name] = self.seen.get(name, 0) + 1

    @contextmanager
    def watching(self, norms: Mapping[str, _BatchNorm]) -> Iterator[None]:
        """Show all that the layers are called with to ``look``, and set what they normalise with."""
        before = [(norm, dict(vars(norm))) for norm in norms.values()]
        try:
            for name, norm in norms.items():
                # The attribute alone: .train() may be overridden, and children (an activation's dropout) stay.
                norm.training = name in self._plan.by_batch
                self._wrap(name, norm)
            yield
        finally:
            for norm, attributes in before:
                norm.training = attributes["training"]
                vars(norm).pop("forward", None)
                if "forward" in attributes:
                    vars(norm)["forward"] = attributes["forward"]

    def _wrap(self, name: str, norm: _BatchNorm) -> None:
        inner: Callable[..., Any] = norm.forward
        if isinstance(norm, nn.SyncBatchNorm) and has_torch_forward(norm):
            # Ranks may have different numbers of batches, so that none may wait for another within a batch.
            inner = MethodType(_BatchNorm.forward, norm)

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.look(name, norm, args[0] if args else next(iter(kwargs.values()), None))
            return inner(*args, **kwargs)

        # Not a hook: a model may call norm.forward itself.
        vars(norm)["forward"] = forward

    def look(self, name: str, norm: _BatchNorm, x: Any) -> None:
        """Take the moments of one input.

        Raises:
            SingleValue: the layer would have to normalise with the statistics of one value.
            DataError: there are values that are not finite.
        """
        if not isinstance(x, Tensor) or x.dim() < 2 or x.shape[1] != norm.num_features:
            return  # the layer itself will say what is wrong
        values = x.numel() // x.shape[1]
        by_batch = norm.training or norm.running_mean is None
        if values < (2 if by_batch else 1):
            raise SingleValue(name, tuple(x.shape))
        if name not in self._plan.collect:
            return
        moments = Moments.of(x)
        if not bool(torch.isfinite(moments.m2).all()):
            bad = int((~torch.isfinite(x)).sum())
            raise DataError(
                f"batch {self.batches + self.skipped}: {bad} of {x.numel()} values that reach batch norm {name!r} "
                "are NaN or infinite. One such value makes running statistics useless, and clean batches do "
                "not heal them. Nothing was changed; look for such values in the batch, and in the weights "
                "and statistics of the layers before."
            )
        self._batch[name] = self._batch[name] + moments if name in self._batch else moments
