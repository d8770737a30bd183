"""Runs made up to measure: what a claim says of them is known beforehand."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from xhat.landscape.recording import QUANTILES
from xhat.study.claim import Claim, Context
from xhat.study.measures.linear_part import LEVELS
from xhat.study.result import ClaimResult, Effect
from xhat.study.spec import Member, Network, TrainSpec, describe, run_key
from xhat.study.store import Arrays, Run
from xhat.study.subjects import users

CHANCE = float(np.log(10))
UNITS = 4
NAN = math.nan
S, C, I = "supported", "contradicted", "inconclusive"  # noqa: E741
USERS = Context("quick", user=users("quick", "net:make", "net:data"))


@dataclass(frozen=True)
class Fate:
    """How the training of one network went; the default trains."""

    final: float = 0.3  # loss; NaN: it became infinite half way
    accuracy: float = 0.8
    rough: float = 1.0  # range of loss and gradient along the gradient
    gradient: float = 1.0  # first over last hidden layer, at the start
    mean: Callable[[int], float] = field(default=lambda step: 0.0)  # of every layer's values, by step
    # By kind what a measure finds at a step, in place of ``MEASURED``'s.
    measured: dict[str, Callable[[Any, int], dict[str, Any]]] = field(default_factory=dict)
    loss: Callable[[int], float] | None = None  # by step, in place of a straight line from chance
    growth: float = 1.0  # of the gradient at the start, from a hidden layer to the one before it


Fates = Callable[[Network, Member], Fate]


def _evaluated(fate: Fate, measure: Any, step: int) -> dict[str, Any]:
    found = {"accuracy": fate.accuracy, "test_loss": fate.final}
    return found | ({"train_accuracy": fate.accuracy, "train_loss": fate.final} if measure.train else {})


def _rescaled(fate: Fate, measure: Any, step: int) -> dict[str, Any]:
    cases = np.full(len(measure.factors) + len(measure.spreads), 1e-3) + 0 * fate.final
    return {"output": cases, "stale": 1e3 * cases, "gradient": -cases, "cosine": 1 - cases}


def _weighed(fate: Fate, measure: Any, step: int) -> dict[str, Any]:
    layers = np.ones(2) + 0 * fate.final
    return {"norm": 3 * layers, "gamma": layers, "moved": 0.1 * layers}


def _linear(fate: Fate, measure: Any, step: int) -> dict[str, Any]:
    share = np.full(2, 0.5) + 0 * fate.final
    return {"share": share, "quantile": share[:, None] * stats.norm.ppf(LEVELS)}


def _perturbed(fate: Fate, measure: Any, step: int) -> dict[str, Any]:
    shift = np.full((3, len(measure.layers), len(measure.sizes)), 0.1) + 0 * fate.final
    return {"shift": shift, "alive": np.ones_like(shift)}


def _controlled(fate: Fate, measure: Any, step: int) -> dict[str, Any]:
    steps = np.full(3, 10.0) + 0 * fate.final
    error = np.geomspace(1.0, 1e-3, measure.cap + 1) + 0 * steps[:, None]
    return {"steps": steps, "error": error, "rate": steps / 100}


# By kind, what a measure finds for one member with this fate at a step: a value or an array by name.
MEASURED: dict[str, Callable[[Fate, Any, int], dict[str, Any]]] = {
    "evaluate": _evaluated,
    "recalibrated": lambda fate, measure, step: {"accuracy": fate.accuracy, "test_loss": fate.final},
    "rescale": _rescaled,
    "weight_norms": _weighed,
    "linear_part": _linear,
    "perturb": _perturbed,
    "layer_step": lambda fate, measure, step: {
        name: np.full(len(measure.layers), 0.1) + 0 * fate.final for name in ("decrease", "rate")
    },
    "control": _controlled,
}


def judged(
    claim: Claim, fates: Fates, context: Context | None = None, *, unrecorded: Fates | None = None
) -> ClaimResult:
    """Return what the claim says of networks with these fates; of runs without a recording, with others."""
    measurement = claim.measure(context or Context("quick"))
    wanted = next(measurement)
    while True:
        try:
            runs = [made_run(spec, fates if spec.record else unrecorded or fates) for spec in wanted]
            wanted = measurement.send(runs)
        except StopIteration as stop:
            return stop.value


def made_run(spec: TrainSpec, fates: Fates) -> Run:
    """Return a run as ``xhat.study.train`` describes it."""
    members = [fates(spec.network, member) for member in spec.members]
    final = np.array([fate.final for fate in members])
    loss = np.linspace(np.full(len(members), CHANCE), final, spec.steps, axis=1)
    loss[np.isnan(final), : spec.steps // 2] = CHANCE
    for row, fate in zip(loss, members, strict=True):
        if fate.loss is not None:
            row[:] = [fate.loss(step) for step in range(spec.steps)]
    arrays: Arrays = {
        "loss": loss,
        "final_loss": final,
        "chance": np.full(len(members), CHANCE),
        "trains": final < CHANCE / 2,
        "test_accuracy": np.array([fate.accuracy for fate in members]),
        "layer_gradient": np.array([_layer_gradient(spec, fate) for fate in members]),
        **_probes(spec, members),
        **_records(spec, members),
        **_measures(spec, members),
    }
    positions = [[layer, side] for layer in _layers(spec) for side in ("input", "output")]
    record = {"spec": describe(spec), "seconds": 1.0, "training_seconds": 1.0, "positions": positions}
    return Run(run_key(spec), record, arrays)


def _layer_gradient(spec: TrainSpec, fate: Fate) -> list[float]:
    depth = int(dict(spec.network.options).get("depth", 3))
    hidden = [fate.growth ** (depth - 1 - layer) for layer in range(depth)]
    return [fate.gradient * hidden[0], *hidden[1:], 9.0]


def _layers(spec: TrainSpec) -> tuple[str, ...]:
    return () if spec.record is None else spec.record.layers or ("0", "2", "4")


def _probes(spec: TrainSpec, members: list[Fate]) -> Arrays:
    if spec.probe is None:
        return {}
    ratios = np.array(spec.probe.ratios)
    shape = (len(members), len(spec.probe.at))
    rough = np.array([fate.rough for fate in members])[:, None, None] * np.ones((*shape, 1))
    return {
        "probe_step": np.array(spec.probe.at),
        "probe_ratio": ratios,
        "probe_loss": 1 + rough * np.linspace(0, 1, len(ratios)),
        "probe_distance": rough * ratios,
        "probe_start": np.ones(shape),
        "probe_gradient": np.ones(shape),
        "probe_weight": np.ones(shape),
    }


def _records(spec: TrainSpec, members: list[Fate]) -> Arrays:
    if spec.record is None:
        return {}
    steps = np.array(spec.record.at)
    levels = np.array(QUANTILES)
    shape = stats.norm.ppf(np.clip(levels, 0.01, 0.99))
    mean = np.array([[fate.mean(int(step)) for fate in members] for step in steps])
    by_unit = np.broadcast_to(mean[:, :, None], (*mean.shape, UNITS))
    arrays: Arrays = {"record_step": steps, "record_quantile": levels}
    for place in range(2 * len(_layers(spec))):
        arrays |= {
            f"record_{place}_mean": by_unit,
            f"record_{place}_std": np.ones_like(by_unit),
            f"record_{place}_dead": np.zeros_like(mean),
            f"record_{place}_pooled": mean[:, :, None] + shape,
            f"record_{place}_units": by_unit[..., None] + shape,
        }
    return arrays


def _measures(spec: TrainSpec, members: list[Fate]) -> Arrays:
    arrays: Arrays = {}
    for measure in spec.measures:
        kind = measure.kind
        arrays[f"{kind}_step"] = np.array(measure.at)

        def of(fate: Fate, step: int, measure: Any = measure, kind: str = kind) -> dict[str, Any]:
            own = fate.measured.get(kind)
            return own(measure, step) if own else MEASURED[kind](fate, measure, step)

        found = [[of(fate, step) for step in measure.at] for fate in members]
        arrays |= {
            f"{kind}_{name}": np.array([[taken[name] for taken in row] for row in found])
            for name in found[0][0]
        }
    return arrays


def shaken(member: Member, by: float = 0.02) -> float:
    """Return a factor close to 1 that differs from seed to seed."""
    return 1 + by * math.sin(10 * member.seed + 1)


def primary(result: ClaimResult) -> dict[str, Effect]:
    """Return the effects that decide, by name."""
    return {effect.name: effect for effect in result.effects if effect.primary}


# --- fates that every claim must bear


def drifting(network: Network, member: Member) -> Callable[[int], float]:
    pace = 0.01 * shaken(member) * (1 + member.lr) * (1 + 0.1 * len(network.norm))
    return lambda step: pace * step


def all_train(network: Network, member: Member) -> Fate:
    return Fate(final=0.3 * shaken(member) + 0.01 * member.lr, mean=drifting(network, member))


def none_trains(network: Network, member: Member) -> Fate:
    final = CHANCE * (1 + 0.001 * shaken(member) / (1 + member.lr))
    gradient = float(network.norm == "batch")
    return Fate(final, accuracy=0.1, rough=0.0, gradient=gradient, mean=drifting(network, member))


def none_is_finite(network: Network, member: Member) -> Fate:
    return Fate(NAN, 0.1, NAN, NAN, lambda step: NAN)


def only_bn_trains(network: Network, member: Member) -> Fate:
    return (all_train if network.norm == "batch" else none_is_finite)(network, member)


OUTCOMES = {fates.__name__: fates for fates in (all_train, none_trains, none_is_finite, only_bn_trains)}
