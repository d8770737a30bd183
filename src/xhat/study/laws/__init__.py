"""The laws of batch normalization: exact statements, each checked in float64 against torch's own BN."""

from collections.abc import Callable

from xhat.study.laws import (
    any_moments,
    bias_cancels,
    curvature,
    gradients,
    inference,
    lipschitz,
    scale_invariance,
    standardise,
)
from xhat.study.result import LawResult

LAWS: dict[str, Callable[[int], LawResult]] = {
    "standardise": standardise.check,
    "any-moments": any_moments.check,
    "gradients": gradients.check,
    "bias-cancels": bias_cancels.check,
    "scale-invariance": scale_invariance.check,
    "lipschitz": lipschitz.check,
    "curvature": curvature.check,
    "inference": inference.check,
}

__all__ = ["LAWS"]
