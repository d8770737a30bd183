"""The learning rate of an arm: its own best, chosen by training loss so that test accuracy stays unseen."""

from collections.abc import Mapping, Sequence

import numpy as np

from xhat.study.outcome import Outcome
from xhat.study.spec import Member

Arm = tuple[str, str]  # normalisation, initialisation


def best_rate(
    trained: Mapping[tuple[Arm, Member], Outcome],
    arm: Arm,
    *,
    seeds: int,
    rates: Sequence[float],
    scale: float = 1.0,
) -> float:
    """Return the rate of the lowest mean final training loss over seeds; a diverged seed rules it out."""

    def loss(rate: float) -> float:
        mean = np.mean([trained[arm, Member(seed, rate, arm[1], scale)].final_loss for seed in range(seeds)])
        return float(mean) if np.isfinite(mean) else np.inf

    return min(rates, key=loss)
