"""init-insensitive: with BN training does not hang on the scale of the initial weights.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3.3: BN(Wu) = BN((aW)u). That makes the function
independent of the scale, not training: at a fixed learning rate the effective rate goes as 1/a². The claim
measures where that ends it.
Expected there: output and Jacobian do not change with the scale; no accuracy is given.
Cost on 2 cores: quick about 1 minute, full about 5; the runs are easier-search's too.
Command: xhat study --claims init-insensitive
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject
from xhat.study.claims._best import Arm, best_rate
from xhat.study.claims._search_box import Box, Trained, own_box, scales, searched, trained_members
from xhat.study.curves import ARM_NAMES, mean_curve
from xhat.study.result import Axis, ClaimResult, ClaimText, Curve, Effect, Figure, Panel, Table, overall
from xhat.study.spec import Member
from xhat.study.subjects import subjects_table
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
        "scale 1, of 0.01 to 10 (a user's network at 0.1), held fixed over the scales. The workable range: "
        "decades between the outermost scales at which the network trains and its test accuracy lies within "
        f"{WITHIN:g} points of the best of that arm and seed. Beside it: each scale at its own best rate."
    ),
    threshold=(
        f"Supported if BN's workable range is wider than the plain network's by more than {DECADES:g} decade, "
        f"and BN's accuracy at every scale from {CORE[0]:g} to {CORE[1]:g} differs less than {WITHIN:g} points "
        "from that at scale 1 (equivalence; the scale that differs most decides), each with the whole 95% "
        "interval."
    ),
    does_not_show=(
        "The scale is changed in all layers at once, the output layer too, which BN does not normalise. "
        "Function invariance is not training invariance: large weights learn slowly under BN."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.3.",
    expected="[IS]: the layer's output and its Jacobian do not change with the scale; no accuracy is given.",
    cost="quick: about 1 minute; full: about 5 minutes, shared with easier-search",
    changes=(
        "The workable range counted points instead of the distance between them, and the loss was taken "
        "against the best of all scales, which overstates it; a network that does not train counted as "
        "workable. Later the runs became those of easier-search: rates from 0.01 to 10 instead of 0.03 to 0.3, "
        "and in full 300 steps instead of 600. All runs were made anew on other seeds."
    ),
)

Floats = npt.NDArray[np.float64]


def measure(context: Context) -> Measurement:
    """Train every arm at every scale and rate, and compare the ranges of scales that work."""
    if context.user is None:
        box = own_box(context)
    else:
        (subject,) = context.subjects()
        box = Box(subject, (0.1,), scales(5), ("none", "batch"))
    trained, keys = yield from searched(box)
    subject = box.subject
    if not subject.is_users:
        kept, more = yield from trained_members(subject, _output_kept(trained, box))
        trained, keys = {**trained, **kept}, (*keys, *more)
    fixed = {arm: _sweep(trained, arm, box, own=False) for arm in box.arms}
    own = {arm: _sweep(trained, arm, box, own=True) for arm in box.arms}
    effects = _effects(fixed, own, subject)
    return ClaimResult(
        TEXT,
        overall(effects),
        _words(fixed, subject),
        tuple(effects),
        (_figure(fixed, own, subject),),
        (_rates_table(trained, box), subjects_table(subject)),
        runs=keys,
    )


def _output_kept(trained: Trained, box: Box) -> dict[str, list[Member]]:
    """Return by arm the core scales once more, at the same rate, with the output layer left at scale 1."""
    subject = box.subject
    core = [scale for scale in box.scales if CORE[0] <= scale <= CORE[1] and scale != 1.0]
    members = {}
    for norm, init in (("none", subject.init), ("batch", subject.init)):
        rate = best_rate(trained, (norm, init), seeds=subject.seeds, rates=box.rates)
        members[norm] = [
            Member(seed, rate, init, scale, output_scale=1.0)
            for seed in range(subject.seeds)
            for scale in core
        ]
    return members


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
        """Decades between the workable scales that lie farthest apart, a seed each; 0 for one or none."""
        decades = np.log10(self.scales)
        return np.array([np.ptp(decades[row]) if row.any() else 0.0 for row in self.workable])

    @property
    def open(self) -> npt.NDArray[np.bool_]:
        """Whether the workable range reaches an end of the scales, a seed each: it may be wider."""
        return np.asarray(self.workable[:, 0] | self.workable[:, -1])

    def lost(self) -> tuple[float, Floats]:
        """Return the core scale that differs most from scale 1 on average, and its loss in points by seed."""
        one = self.scales.index(1.0)
        losses = {
            scale: self.accuracy[:, one] - self.accuracy[:, place]
            for place, scale in enumerate(self.scales)
            if CORE[0] <= scale <= CORE[1] and scale != 1.0
        }
        worst = max(losses, key=lambda scale: abs(float(losses[scale].mean())))
        return worst, losses[worst][self.trains[:, one]]


def _sweep(trained: Trained, arm: Arm, box: Box, *, own: bool) -> _Sweep:
    """Return an arm's runs at its best rate at scale 1, or (``own``) at each scale's own best."""
    seeds = box.subject.seeds
    best = {
        scale: best_rate(trained, arm, seeds=seeds, rates=box.rates, scale=scale if own else 1.0)
        for scale in box.scales
    }
    rows = [
        [trained[arm, Member(seed, best[scale], arm[1], scale)] for scale in box.scales]
        for seed in range(seeds)
    ]
    return _Sweep(
        accuracy=np.array([[100 * outcome.test_accuracy for outcome in row] for row in rows]),
        trains=np.array([[outcome.trains for outcome in row] for row in rows]),
        scales=box.scales,
    )


def _effects(fixed: Mapping[Arm, _Sweep], own: Mapping[Arm, _Sweep], subject: Subject) -> list[Effect]:
    none, batch, layer = ((norm, subject.init) for norm in ("none", "batch", "layer"))

    def wider(name: str, unit: str, a: _Sweep, b: _Sweep, *, primary: bool = False) -> Effect:
        known = ~(a.open & b.open)  # where both ranges are open, neither is known to be the wider
        left_out = int((~known).sum())
        note = say("{count} seeds left out: both ranges reach an end of the scales", count=left_out)
        return difference(
            name,
            unit,
            list((a.range - b.range)[known]),
            threshold=DECADES,
            primary=primary,
            at_least=bool((a.open & known).any()),
            note=note if left_out else "",
        )

    name = say("workable range of scales, {subject}", subject=subject.name)
    worst, lost = fixed[batch].lost()
    effects = [
        wider(name, "decades, batch − none", fixed[batch], fixed[none], primary=True),
        difference(
            say(
                "accuracy lost by BN from scale 1 to {scale:g}, {subject}", scale=worst, subject=subject.name
            ),
            "points",
            list(lost),
            threshold=WITHIN,
            rule="within",
            note=say(
                "of the scales from {low:g} to {high:g} the one that differs most", low=CORE[0], high=CORE[1]
            ),
        ),
    ]
    if layer in fixed:
        own_name = say("workable range, each scale at its own best rate, {subject}", subject=subject.name)
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
        title=say("Accuracy against the scale of the initial weights: {subject}", subject=subject.name),
        caption=say(
            "Mean over {seeds} seeds; bands: 95% intervals. Scale 1 is the usual initialisation.",
            seeds=subject.seeds,
        ),
        alt=say("Test accuracy against scale. {words}", words=listed(_words(fixed, subject), " ")),
        panels=tuple(panels),
    )


def _rates_table(trained: Trained, box: Box) -> Table:
    rows = tuple(
        (ARM_NAMES[arm[0]], best_rate(trained, arm, seeds=box.subject.seeds, rates=box.rates))
        for arm in box.arms
    )
    tried = listed([say("{rate:g}", rate=rate) for rate in box.rates], ", ")
    title = say("Learning rate of each arm, best at scale 1 of {rates}", rates=tried)
    return Table(title, ("arm", "learning rate"), rows)


def _words(fixed: Mapping[Arm, _Sweep], subject: Subject) -> tuple[str, ...]:
    sentences = []
    for (norm, _), sweep in fixed.items():
        most = [s for s, works in zip(sweep.scales, sweep.workable.mean(axis=0), strict=True) if works > 0.5]
        where = "workable for most seeds at no scale"
        if most:
            where = say(
                "workable for most seeds from scale {low:g} to {high:g}", low=min(most), high=max(most)
            )
        sentences.append(
            say(
                "{subject}, {arm}: best mean accuracy {best:.0f}%, {where} (mean of the seeds' ranges: "
                "{range:.1f} decades).",
                subject=subject.name,
                arm=ARM_NAMES[norm],
                best=float(sweep.accuracy.mean(axis=0).max()),
                where=where,
                range=float(sweep.range.mean()),
            )
        )
    return tuple(sentences)


CLAIM = Claim(TEXT, measure, takes_networks=True)
