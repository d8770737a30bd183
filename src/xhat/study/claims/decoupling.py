"""decoupling: without BN a layer's distribution hangs on all earlier weights; with it γ and β set it.

Source: ours, after the notes, which give it as an intuition; Ioffe and Szegedy 2015 (arXiv 1502.03167),
sec. 1 and 3, argue alike. No number is known.
Cost on 2 cores: quick about 1.5 minutes, full about 10; a part of it is shared with other claims.
Command: xhat study --claims decoupling
"""

from collections.abc import Generator, Sequence

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._decoupling import CAP, DECIDES, LATE, LAYERS, MIDDLE, SIZES, Seen
from xhat.study.claims._decoupling_figures import (
    control_figure,
    control_table,
    control_words,
    shift_figure,
    shift_table,
    shift_words,
)
from xhat.study.claims._tuned import Tuned, tuned
from xhat.study.measures import Control, Perturb
from xhat.study.outcome import Training, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Measure, Member, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table, vgg
from xhat.study.verdict import ratio

# Committed before the first run.
SHIFT = 2.0  # times as far do the moments move without BN
STEPS = 2.0  # times as many steps does gradient descent take without BN
RATES = tuple(2.0 ** (1 - k) for k in range(16))  # of the control, 2 down to 0.00006
ARMS = ("none", "batch")

TEXT = ClaimText(
    id="decoupling",
    title="With batch norm γ and β alone set the distribution of a layer's input",
    says=(
        "Without BN the mean and variance of a layer's input hang on all earlier weights, and changing them "
        "means changing all of these. BN takes them out of the weights: γ and β alone control them."
    ),
    measured=(
        "Two measures on networks trained at each arm's own best learning rate, at the start and at the end. "
        "Perturb: Gaussian noise δ on every weight matrix and bias up to a middle and a late layer, "
        f"‖δ‖ = r‖W‖ with r from {SIZES[0]:g} to {SIZES[-1]:g}, the same four draws in both arms. How far "
        "do the moments of the next layer's input, behind the activation, move on 256 samples? The "
        "shift is the root mean square over units of the change of the mean, in standard deviations, and of "
        "the logarithm of the standard deviation. BN uses the statistics of the batch, or, as evaluation "
        "mode would, those from before the noise. Control (MLP): gradient descent is to move every "
        "unit's mean, before the activation, by half a standard deviation and its standard deviation 1.5 "
        "times, up or down by a fixed draw; through γ and β of this layer, or without BN through all weights "
        f"up to it, each at its own best rate. Steps until the error is below 1% of its start, {CAP} at most."
    ),
    threshold=(
        f"Supported if at r = {DECIDES:g}, at the late layer at the end of training, the shift without BN is "
        f"more than {SHIFT:g} times that with BN in training mode, on each network, and the steps of control "
        f"without BN are more than {STEPS:g} times those with it, each with the whole 95% interval."
    ),
    does_not_show=(
        "That this is why BN helps. In training mode the claim holds before the activation by construction: "
        "mean and variance there are β and γ², but for ε, whatever the weights. Behind the activation they hang "
        "on the distribution's shape too, which γ and β do not set: only that moves them. The noise "
        "hits every parameter that sets the distribution without BN, and spares γ and β, which set it with "
        "BN. How the ratio is with statistics from before the noise, and with noise on γ and β too, is said "
        "beside it for each network. Control compares coordinates: γ and β have these very moments as "
        "coordinates, the weights have not. Both ways have a closed form: γ and β in one step (law "
        "any-moments), and without BN the scale of a row of W and its bias; what is counted is plain "
        "gradient descent. The layer's own weights alone are shown as a further way without BN."
    ),
    source="Ours, after the notes; [IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 1 and 3, argue alike.",
    expected="No number is known.",
    cost="quick: about 1.5 minutes; full: about 10 minutes; a part of it is shared with other claims",
)


def measure(context: Context) -> Measurement:
    """Find each arm's best rate, train there again with the measures, and compare."""
    subjects = [context.subject(make(context.preset)) for make in (mlp, vgg)]
    rates = yield from together(
        *(tuned(subject, {norm: subject.network.with_norm(norm) for norm in ARMS}) for subject in subjects)
    )
    found = yield from together(
        *(_measured(subject, arms) for subject, (arms, _) in zip(subjects, rates, strict=True))
    )
    seen = [networks for networks, _ in found]
    (first, *_) = seen
    effects = [effect for networks in seen for effect in _shifts(networks)] + _controls(first)
    keys = [key for _, tried in rates for key in tried] + [key for _, more in found for key in more]
    return ClaimResult(
        TEXT,
        overall(effects),
        (*(shift_words(networks) for networks in seen), control_words(first)),
        tuple(effects),
        (shift_figure(seen), control_figure(first)),
        (shift_table(seen), control_table(first), subjects_table(*subjects)),
        runs=tuple(dict.fromkeys(keys)),
    )


def _measured(
    subject: Subject, arms: dict[str, Tuned]
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[Seen, tuple[str, ...]]]:
    at = (0, subject.steps)
    measures: list[Measure] = [Perturb(at, LAYERS, SIZES)]
    if subject.network.is_ensemble:
        measures.append(Control(at, LATE, RATES, cap=CAP))
    training = Training(subject.data, subject.steps, subject.batch_size, measures=tuple(measures))
    wanted = {
        norm: specs(
            subject.network.with_norm(norm),
            [Member(seed, arm.rate, subject.init) for seed in range(subject.seeds)],
            training,
        )
        for norm, arm in arms.items()
    }
    asked = [spec for each in wanted.values() for spec in each]
    runs = yield asked
    found = outcomes(asked, runs)
    seen = {
        norm: tuple(found[spec.network, member] for spec in each for member in spec.members)
        for norm, each in wanted.items()
    }
    return Seen(subject, seen), tuple(run.key for run in runs)


def _shifts(seen: Seen) -> list[Effect]:
    def effect(name: str, other: str, layer: int, *, end: bool = True, primary: bool = False) -> Effect:
        return ratio(
            name,
            "ratio, none / batch",
            list(seen.ratios(other, layer, end=end)),
            threshold=SHIFT,
            primary=primary,
            note=_note(seen, end),
        )

    values = {"network": seen.subject.name, "late": LATE + 1, "middle": MIDDLE + 1, "size": DECIDES}
    return [
        effect(
            say(
                "shift of moments at r = {size:g}, {network}, behind layer {late}, BN in training mode",
                **values,
            ),
            "batch",
            LATE,
            primary=True,
        ),
        effect(
            say(
                "shift of moments at r = {size:g}, {network}, behind layer {late}, BN's statistics from "
                "before the noise",
                **values,
            ),
            "running",
            LATE,
        ),
        effect(
            say(
                "shift of moments at r = {size:g}, {network}, behind layer {late}, noise on γ and β too",
                **values,
            ),
            "affine",
            LATE,
        ),
        effect(
            say(
                "shift of moments at r = {size:g}, {network}, behind layer {middle}, BN in training mode",
                **values,
            ),
            "batch",
            MIDDLE,
        ),
        effect(
            say(
                "shift of moments at r = {size:g}, {network}, behind layer {late}, BN in training mode, "
                "at the start",
                **values,
            ),
            "batch",
            LATE,
            end=False,
        ),
    ]


def _controls(seen: Seen) -> list[Effect]:
    def effect(name: str, unit: str, other: str, *, end: bool = True, primary: bool = False) -> Effect:
        with_, without = (seen.control(way, "steps", end=end) for way in ("batch", other))
        # Of a seed that reaches the goal in neither arm nothing is known. Beyond the cap a step more than
        # the cap is counted: without BN too few.
        known = np.isfinite(with_ + without) & ((with_ <= CAP) | (without <= CAP))
        notes = [_note(seen, end), say("γ and β have these moments as coordinates")]
        if not known.all():
            notes.append(
                say("{count} pairs left out: no goal is reached in either", count=int((~known).sum()))
            )
        censored = without[known] > CAP
        if censored.any():
            notes.append(
                say(
                    "without BN {count} seeds have not reached it after {cap} steps, and count as {cap}",
                    count=int(censored.sum()),
                    cap=CAP,
                )
            )
        logs = np.log(np.minimum(without[known], CAP)) - np.log(with_[known])
        return ratio(
            name,
            unit,
            list(logs),
            threshold=STEPS,
            primary=primary,
            at_least=bool(censored.any()),
            note=listed([note for note in notes if note]),
        )

    values = {"network": seen.subject.name, "layer": LATE + 1}
    all_, own = "ratio, none (all weights) / batch (γ, β)", "ratio, none (own weights) / batch (γ, β)"
    name = say("steps to given moments, {network}, layer {layer}", **values)
    return [
        effect(name, all_, "all", primary=True),
        effect(name, own, "layer"),
        effect(
            say("steps to given moments, {network}, layer {layer}, at the start", **values),
            all_,
            "all",
            end=False,
        ),
    ]


def _note(seen: Seen, end: bool) -> str:
    left_out = seen.subject.seeds - len(seen.pairs(end=end))
    return say("{count} seeds left out that do not train in both arms", count=left_out) if left_out else ""


CLAIM = Claim(TEXT, measure, takes_networks=False)
