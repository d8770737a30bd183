"""Runs seen member by member: what a claim asks of one network's training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.landscape.recording import Position
from xhat.study.spec import Data, Measure, Member, Network, Probe, Record, TrainSpec
from xhat.study.store import Run

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """One trained network: views into its run's arrays. P probes of E step sizes, R records."""

    member: Member
    run: Run
    index: int  # the member's place in the run
    share: float  # its part of the run's time

    @property
    def loss(self) -> Floats:
        """Shape (T,): training loss at every step, NaN after the run was given up."""
        return self._of("loss")

    @property
    def final_loss(self) -> float:
        """Mean training loss over the last tenth of the steps."""
        return float(self._of("final_loss"))

    @property
    def trains(self) -> bool:
        """Finite at every step, and finally below half of chance."""
        return bool(self.run.arrays["trains"][self.index])

    @property
    def test_accuracy(self) -> float:
        """Share of test samples classified rightly, in evaluation mode."""
        return float(self._of("test_accuracy"))

    @property
    def layer_gradient(self) -> Floats:
        """Shape (L,): norm of each layer's weight gradient at the start."""
        return self._of("layer_gradient")

    @property
    def probe_step(self) -> Floats:
        """Shape (P,): training steps at which the landscape was probed."""
        return np.asarray(self.run.arrays["probe_step"], dtype=np.float64)

    @property
    def loss_range(self) -> tuple[Floats, Floats]:
        """Two of shape (P,): smallest and largest loss on the way along the gradient."""
        loss = self._of("probe_loss")
        return loss.min(1), loss.max(1)

    @property
    def loss_variation(self) -> Floats:
        """Shape (P,): largest minus smallest loss on the way."""
        low, high = self.loss_range
        return high - low

    @property
    def gradient_distance(self) -> tuple[Floats, Floats]:
        """Two of shape (P,): smallest and largest ‖g - ∇L(w - ηg)‖₂ on the way."""
        distance = self._of("probe_distance")
        return distance.min(1), distance.max(1)

    @property
    def effective_beta(self) -> Floats:
        """Shape (P,): the largest ‖g - ∇L(w - ηg)‖ / (η‖g‖) on the way."""
        steps = self.run.arrays["probe_ratio"] * self.member.lr
        gradient = self._of("probe_gradient")[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self._of("probe_distance") / (steps * gradient)).max(1))

    @property
    def normalised_beta(self) -> Floats:
        """Shape (P,): effective β times ‖w‖², which a scale-invariant network cannot lower by growing."""
        return self.effective_beta * self._of("probe_weight") ** 2

    def measured(self, kind: str, name: str) -> Floats:
        """Return what a measure found each of the A times it was taken, shape (A, ...)."""
        return self._of(f"{kind}_{name}")

    def measured_step(self, kind: str) -> Floats:
        """Shape (A,): training steps done when the measure was taken; fewer where the run was given up."""
        return np.asarray(self.run.arrays[f"{kind}_step"], dtype=np.float64)

    @property
    def training_seconds(self) -> float:
        """Time of batches and steps alone, on one thread; of an ensemble this member's part."""
        return float(self.run.record["training_seconds"]) * self.share

    @property
    def record_step(self) -> Floats:
        """Shape (R,): training steps at which distributions were recorded."""
        return np.asarray(self.run.arrays["record_step"], dtype=np.float64)

    def positions(self) -> tuple[Position, ...]:
        """Return the recorded layers and sides of this member alone (M = 1)."""
        one = slice(self.index, self.index + 1)
        return tuple(
            Position(
                layer,
                side,
                tuple(map(float, self.run.arrays["record_quantile"])),
                **{
                    field: self.run.arrays[f"record_{place}_{field}"][:, one]
                    for field in ("mean", "std", "dead", "pooled", "units")
                },
            )
            for place, (layer, side) in enumerate(self.run.record["positions"])
        )

    def _of(self, name: str) -> Floats:
        return np.asarray(self.run.arrays[name][self.index], dtype=np.float64)


@dataclass(frozen=True)
class Training:
    """How members are trained, whatever the arm."""

    data: Data
    steps: int
    batch_size: int
    probe: Probe | None = None
    record: Record | None = None
    measures: tuple[Measure, ...] = ()
    gradients: bool = False


def specs(network: Network, members: Iterable[Member], training: Training) -> list[TrainSpec]:
    """Return the runs that train ``members``: one for an ensemble, else one each.

    An ensemble's members are put seed by seed, so that those of a seed share their batches.
    """
    ordered = sorted(members, key=lambda m: m.seed)
    groups = [tuple(ordered)] if network.is_ensemble else [(member,) for member in ordered]
    return [
        TrainSpec(
            network=network,
            data=training.data,
            members=group,
            steps=training.steps,
            batch_size=training.batch_size,
            probe=training.probe,
            record=training.record,
            measures=training.measures,
            gradients=training.gradients,
        )
        for group in groups
    ]


def outcomes(wanted: Sequence[TrainSpec], runs: Sequence[Run]) -> dict[tuple[Network, Member], Outcome]:
    """Return every trained member of ``wanted``, whose runs are ``runs``, by its network and settings."""
    return {
        (spec.network, member): Outcome(member, run, index, 1 / len(spec.members))
        for spec, run in zip(wanted, runs, strict=True)
        for index, member in enumerate(spec.members)
    }
