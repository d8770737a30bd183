"""Small helpers of the doctor's tests."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from xhat.batches import run_batch
from xhat.dataflow import record
from xhat.doctor import Diagnosis, Finding
from xhat.doctor.case import Case
from xhat.doctor.rules import RULES


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give all norms statistics, γ and β as training might, so that nothing looks new."""
    drawn = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                if module.running_mean is not None and module.running_var is not None:
                    module.running_mean.copy_(torch.randn(module.num_features, generator=drawn))
                    module.running_var.copy_(torch.rand(module.num_features, generator=drawn) + 0.5)
                if module.affine:
                    module.weight.copy_(torch.rand(module.num_features, generator=drawn) + 0.5)
                    module.bias.copy_(torch.randn(module.num_features, generator=drawn))
    return model


def of(found: Diagnosis, code: str) -> tuple[Finding, ...]:
    """Return the findings of one code."""
    return tuple(finding for finding in found.findings if finding.code == code)


def by(
    model: nn.Module, code: str, batches: Iterable[Any] | None = None, **known: Any
) -> tuple[Finding, ...]:
    """Return what one rule finds in a model."""
    case = Case.of(model, **known)
    if batches is not None:
        first = next(iter(batches))
        recording = record(model, call=lambda made: run_batch(made, first))
        case = Case.of(model, recording=recording, batch=first, **known)
    return tuple(RULES[code].check(case))
