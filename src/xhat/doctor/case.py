"""What a rule looks at: the model, and what was recorded of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from xhat.dataflow import Recording
from xhat.doctor.observe import Observed
from xhat.doctor.watch import Watched
from xhat.norms import batch_norms, is_fixed_norm


@dataclass(frozen=True)
class Statistics:
    """What a batch norm normalises with in evaluation mode, in float64 on the CPU."""

    mean: Tensor  # (C,)
    variance: Tensor  # (C,), unbiased, as torch keeps it
    eps: float
    weight: Tensor  # (C,): γ, ones where the norm has none
    bias: Tensor  # (C,): β, zeros where the norm has none


@dataclass(frozen=True)
class Case:
    """A model, and what is known about it; parts that a caller did not give are None."""

    model: nn.Module
    norms: Mapping[str, _BatchNorm]  # by full name, in the model's order
    fixed: Mapping[str, nn.Module] = field(default_factory=dict)  # norms of constant statistics, not torch's
    recording: Recording | None = None  # what reached what on the first batch
    batch: Any = None  # the first batch
    optimizer: torch.optim.Optimizer | None = None
    watched: Watched | None = None  # what xhat.watch saw
    observed: Observed | None = None  # what the batches showed
    process_group: ProcessGroup | None = None
    world_size: int = 1  # ranks that diagnose together; each applies the same rules in the same order

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        recording: Recording | None = None,
        batch: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        watched: Watched | None = None,
        observed: Observed | None = None,
        process_group: ProcessGroup | None = None,
        world_size: int = 1,
    ) -> "Case":
        """Return the case of a model, its norms found."""
        fixed = {name: module for name, module in model.named_modules() if is_fixed_norm(module)}
        return cls(
            model,
            batch_norms(model),
            fixed,
            recording,
            batch,
            optimizer,
            watched,
            observed,
            process_group,
            world_size,
        )

    def has(self, need: str) -> bool:
        """Whether the case has what a rule needs; ``need`` is one of ``xhat.doctor.rule.NEEDS``."""
        if need == "ranks":
            return self.world_size > 1
        held = {"flow": "recording", "batches": "observed"}.get(need, need)
        return getattr(self, held) is not None

    def statistics(self, name: str) -> Statistics | None:
        """Return a norm's running statistics and affine parameters; None where it keeps no statistics."""
        module: Any = self.norms.get(name) or self.fixed[name]
        mean, variance = module.running_mean, module.running_var
        if mean is None or variance is None:
            return None
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        return Statistics(
            _exact(mean),
            _exact(variance),
            float(getattr(module, "eps", 0.0)),
            torch.ones_like(_exact(mean)) if weight is None else _exact(weight),
            torch.zeros_like(_exact(mean)) if bias is None else _exact(bias),
        )

    def with_statistics(self) -> dict[str, Statistics]:
        """Return every norm that keeps statistics, the look-alikes of constant ones too, in the model's order."""
        found = {name: self.statistics(name) for name, _ in self.model.named_modules() if self._is_norm(name)}
        return {name: statistics for name, statistics in found.items() if statistics is not None}

    def _is_norm(self, name: str) -> bool:
        return name in self.norms or name in self.fixed


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
