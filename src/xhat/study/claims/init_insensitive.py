"""init-insensitive: with BN training does not hang on the scale of the initial weights.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3.3: BN(Wu) = BN((aW)u). That makes the function
independent of the scale, not training: at a fixed learning rate the effective rate goes as 1/a². The claim
measures where that ends it.
Cost on 2 cores: quick about 1 minute, full about 15.
Command: xhat study --claims init-insensitive
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from xhat.study.claim import Claim, Context, Measurement, Subject
from xhat.study.claims._best import Arm, best_rate
from xhat.study.curves import ARM_NAMES, mean_curve
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.result import Axis, ClaimResult, ClaimText, Curve, Effect, Figure, Panel, overall
from xhat.study.spec import Member
from xhat.study.subjects import mlp, subjects_table
from xhat.study.verdict import difference

# Committed before the first run.
DECADES = 1.0  # by which BN's workable range of scales must be wider
WITHIN = 5.0  # points of accuracy: what counts as workable, and as no difference
CORE = (0.1, 10.0)  # the scales over which "not sensitive" is taken at its word

TEXT = ClaimText(
    id="init-insensitive",
    title="Batch norm makes training insensitive to the scale of the initial weights",
    says=(
        "Without BN the variance of the initial Gaussian matters much. With BN, scaling the weights of a "
        "unit scales its standard deviation by the same factor, which cancels."
    ),
    measured=(
        "Initial weights of every layer multiplied by 0.01 to 100. Each arm at its own best learning rate at "
        "scale 1, held fixed over the scales. The workable range: decades of scale at which the network "
        f"trains and its test accuracy lies within {WITHIN:g} points of the best of that arm and seed. Beside "
        "it: each scale at its own best rate."
    ),
    threshold=(
        f"Supported if BN's workable range is wider than the plain network's by more than {DECADES:g} "
        f"decade, and BN's accuracy over scales {CORE[0]:g} to {CORE[1]:g} falls less than {WITHIN:g} points below "
        "its best (equivalence), each with the whole 95% interval."
    ),
    does_not_show=(
        "The scale is changed in all layers at once, the output layer too, which BN does not normalise. "
        "Function invariance is not training invariance: large weights learn slowly under BN."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.3.",
    expected="[IS]: the layer's output and its Jacobian do not change with the scale; no accuracy is given.",
    cost="quick: about 1 minute; full: about 15 minutes",
)

Trained = Mapping[tuple[Arm, Member], Outcome]
Floats = npt.NDArray[np.float64]


def measure(context: Context) -> Measurement:
    """Train every arm at every scale and rate, and compare the ranges of scales that work."""
    (subject,) = context.subjects(mlp(context.preset, depth=5))
    ours = subject.network.is_ensemble
    points = {"smoke": 3, "quick": 7}.get(context.preset, 9) if ours else 5
    scales = tuple(float(f"{s:.3g}") for s in np.geomspace(0.01, 100, points))
    rates = (0.03, 0.1, 0.3) if ours else (0.1,)
    norms = ("none", "layer", "batch") if ours else ("none", "batch")
    arms: list[Arm] = [(norm, subject.init) for norm in norms]
    members = [
        Member(seed, rate, subject.init, scale)
        for seed, scale, rate in product(range(subject.seeds), scales, rates)
    ]
    training = Training(subject.data, subject.steps, subject.batch_size)
    wanted = [spec for norm in norms for spec in specs(subject.network.with_norm(norm), members, training)]
    runs = yield wanted
    trained: dict[tuple[Arm, Member], Outcome] = {
        ((network.norm, subject.init), member): outcome
        for (network, member), outcome in outcomes(wanted, runs).items()
    }
    fixed = {arm: _sweep(trained, arm, subject, scales, rates, own=False) for arm in arms}
    own = {arm: _sweep(trained, arm, subject, scales, rates, own=True) for arm in arms}
    effects = _effects(fixed, own, subject)
    return ClaimResult(
        TEXT,
        overall(effects),
        _words(fixed, subject),
        tuple(effects),
        (_figure(fixed, own, subject),),
        (subjects_table(subject),),
        runs=tuple(run.key for run in runs),
    )


@dataclass(frozen=True)
class _Sweep:
    """One arm over all scales, shapes (seeds, scales)."""

    accuracy: Floats  # on the test set, per cent
    trains: npt.NDArray[np.bool_]
    scales: tuple[float, ...]

    @property
    def workable(self) -> npt.NDArray[np.bool_]:
        """Where the network trains, and is almost as good as this arm and seed ever is."""
        return np.asarray(self.trains & (self.accuracy >= self.accuracy.max(axis=1, keepdims=True) - WITHIN))

    @property
    def range(self) -> Floats:
        """Decades of scale that work, a seed each: workable points times their spacing."""
        spacing = float(np.log10(self.scales[-1] / self.scales[0])) / (len(self.scales) - 1)
        return np.asarray(self.workable.sum(axis=1) * spacing)

    @property
    def lost(self) -> Floats:
        """Points of accuracy by which the core scales' worst lies below the best, a seed that trains each."""
        core = [CORE[0] <= scale <= CORE[1] for scale in self.scales]
        lost = self.accuracy.max(axis=1) - self.accuracy[:, core].min(axis=1)
        return np.asarray(lost[self.trains.any(axis=1)])


def _sweep(
    trained: Trained,
    arm: Arm,
    subject: Subject,
    scales: tuple[float, ...],
    rates: tuple[float, ...],
    *,
    own: bool,
) -> _Sweep:
    """Return an arm's runs at its best rate at scale 1, or (``own``) at each scale's own best."""
    seeds = subject.seeds
    best = {
        scale: best_rate(trained, arm, seeds=seeds, rates=rates, scale=scale if own else 1.0)
        for scale in scales
    }
    rows = [
        [trained[arm, Member(seed, best[scale], arm[1], scale)] for scale in scales] for seed in range(seeds)
    ]
    return _Sweep(
        accuracy=np.array([[100 * outcome.test_accuracy for outcome in row] for row in rows]),
        trains=np.array([[outcome.trains for outcome in row] for row in rows]),
        scales=scales,
    )


def _effects(fixed: Mapping[Arm, _Sweep], own: Mapping[Arm, _Sweep], subject: Subject) -> list[Effect]:
    none, batch, layer = ((norm, subject.init) for norm in ("none", "batch", "layer"))

    def wider(name: str, unit: str, a: _Sweep, b: _Sweep, *, primary: bool = False) -> Effect:
        return difference(
            f"{name}, {subject.name}", unit, list(a.range - b.range), threshold=DECADES, primary=primary
        )

    name = "workable range of scales"
    effects = [
        wider(name, "decades, batch − none", fixed[batch], fixed[none], primary=True),
        difference(
            f"accuracy lost by BN between scale {CORE[0]:g} and {CORE[1]:g}, {subject.name}",
            "points",
            list(fixed[batch].lost),
            threshold=WITHIN,
            rule="within",
        ),
    ]
    if layer in fixed:
        own_name = "workable range, each scale at its own best rate"
        effects += [
            wider(name, "decades, layer − none", fixed[layer], fixed[none]),
            wider(own_name, "decades, batch − none", own[batch], own[none]),
        ]
    return effects


def _figure(fixed: Mapping[Arm, _Sweep], own: Mapping[Arm, _Sweep], subject: Subject) -> Figure:
    def curves(sweeps: Mapping[Arm, _Sweep]) -> tuple[Curve, ...]:
        return tuple(
            mean_curve(ARM_NAMES[norm], norm, sweep.scales, list(sweep.accuracy))
            for (norm, _), sweep in sweeps.items()
        )

    axis = Axis("initial weights multiplied by", log=True)
    y = Axis("test accuracy (%)")
    panels = [Panel("Learning rate fixed", axis, y, curves(fixed))]
    if not subject.is_users:
        panels.append(Panel("Each scale at its own best rate", axis, y, curves(own)))
    return Figure(
        id="init-insensitive",
        title=f"Accuracy against the scale of the initial weights: {subject.name}",
        caption=(
            f"Mean over {subject.seeds} seeds; bands: 95% intervals. Scale 1 is the usual initialisation."
        ),
        alt="Test accuracy against scale. " + " ".join(_words(fixed, subject)),
        panels=tuple(panels),
    )


def _words(fixed: Mapping[Arm, _Sweep], subject: Subject) -> tuple[str, ...]:
    sentences = []
    for (norm, _), sweep in fixed.items():
        mean = sweep.accuracy.mean(axis=0)
        most = [s for s, works in zip(sweep.scales, sweep.workable.mean(axis=0), strict=True) if works > 0.5]
        where = (
            f"workable for most seeds from scale {min(most):g} to {max(most):g}" if most else "never workable"
        )
        sentences.append(
            f"{subject.name}, {ARM_NAMES[norm]}: best mean accuracy {mean.max():.0f}%, {where} "
            f"({sweep.range.mean():.1f} decades)."
        )
    return tuple(sentences)


CLAIM = Claim(TEXT, measure, takes_networks=True)
