"""One layer that descends alone, behind a layer that is normalised or not: runs and what they found."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.study.claim import Subject
from xhat.study.measures import LayerStep
from xhat.study.outcome import Outcome, Training, specs
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run

Floats = npt.NDArray[np.float64]

LAYERS = (0, 3, 6)  # hidden layers l from 0, of eight
RATES = tuple(0.01 * 2.0**k for k in range(14))  # of the layer's own descent, up to 82
BEHIND = {"none": "no normalisation", "batch": "batch norm on Z", "post": "batch norm on a"}
FINEST = float(np.finfo(np.float32).eps)  # of 1 − decrease: losses are float32
PLACES = {"batch": "pre", "post": "post"}


@dataclass(frozen=True)
class Stepped:
    """By arm and layer l the networks, one a seed, whose layer behind l descended alone."""

    networks: dict[tuple[str, int], tuple[Outcome, ...]]
    at: tuple[int, ...]  # training steps done

    @property
    def seeds(self) -> list[int]:
        """The seeds that train in every network."""
        each = list(self.networks.values())
        return [seed for seed in range(len(each[0])) if all(outcomes[seed].trains for outcomes in each)]

    def decrease(self, arm: str) -> Floats:
        """Return the relative fall of the loss, (seeds that train, times, layers)."""
        columns = []
        for place, layer in enumerate(LAYERS):
            outcomes = self.networks[arm, layer]
            found = [outcomes[seed].measured("layer_step", "decrease") for seed in self.seeds]
            # The plain network was measured at all layers, one with BN at its own.
            columns.append([values[:, place if arm == "none" else 0] for values in found])
        return np.array(columns).reshape(len(LAYERS), -1, len(self.at)).transpose(1, 2, 0)

    def gains(self, arm: str) -> Floats:
        """Return ln of the fall over the plain network's, mean over layers and times, one a seed."""
        return _over(self.decrease(arm), self.decrease("none"))

    def log_gains(self, arm: str) -> Floats:
        """As ``gains``, of ln(L₀/L) = −ln(1 − decrease), which does not end at 1 as the decrease does."""
        return _over(_logs(self.decrease(arm)), _logs(self.decrease("none")))

    def highest(self) -> float:
        """Return the plain network's largest mean fall over seeds, of all layers and times; NaN if none."""
        plain = self.decrease("none")
        return float(plain.mean(0).max()) if len(plain) else float("nan")


def _logs(decrease: Floats) -> Floats:
    logs: Floats = -np.log(np.maximum(1 - decrease, FINEST))
    return logs


def _over(this: Floats, plain: Floats) -> Floats:
    """Return ln(this / plain), mean over layers and times, of the seeds (the first axis) that have one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(this) - np.log(plain)
    means: Floats = logs.mean((1, 2))
    return means[np.isfinite(means)]


def stepped(
    subject: Subject, rate: float
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[Stepped, tuple[str, ...]]]:
    """Train the plain network and those with BN at one layer alone, all at ``rate``, and let layers descend."""
    at = tuple(dict.fromkeys(round(subject.steps * part / 4) for part in (0, 1, 2, 4)))
    members = [Member(seed, rate, subject.init) for seed in range(subject.seeds)]

    def spec(norm: str, layers: tuple[int, ...], **options: str | int) -> TrainSpec:
        training = Training(
            subject.data, subject.steps, subject.batch_size, measures=(LayerStep(at, layers, RATES),)
        )
        (found,) = specs(subject.network.with_norm(norm).with_options(**options), members, training)
        return found

    plain = spec("none", LAYERS)
    wanted = {("none", layer): plain for layer in LAYERS} | {
        (arm, layer): spec("batch", (layer,), only=layer, place=place)
        for arm, place in PLACES.items()
        for layer in LAYERS
    }
    asked = list(dict.fromkeys(wanted.values()))
    runs = dict(zip(asked, (yield asked), strict=True))
    networks = {
        case: tuple(
            Outcome(member, runs[spec], index, 1 / len(members)) for index, member in enumerate(spec.members)
        )
        for case, spec in wanted.items()
    }
    return Stepped(networks, at), tuple(run.key for run in runs.values())
