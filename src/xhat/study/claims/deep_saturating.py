"""deep-saturating: with BN deep sigmoid and tanh networks train; BN suppresses vanishing gradients.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 4.2.2. Expected there: Inception with sigmoid and BN
reaches 69.8%, without BN it never leaves 1/1000.
Cost on 2 cores: quick about 1 minute, full about 5.
Command: xhat study --claims deep-saturating
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject
from xhat.study.claims._best import Arm, best_rate
from xhat.study.curves import mean_curve
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.result import Axis, ClaimResult, ClaimText, Curve, Effect, Figure, Panel, Table, overall
from xhat.study.spec import Member, TrainSpec
from xhat.study.subjects import mlp, subjects_table
from xhat.study.verdict import difference, ratio

# Committed before the first run. The deepest network decides.
POINTS = 10.0  # of test accuracy over the best plain arm
GRADIENT = 10.0  # times the plain network's ratio of first to last hidden layer's gradient
RATES = {"sigmoid": (0.1, 0.3, 1.0, 3.0, 10.0), "tanh": (0.01, 0.03, 0.1, 0.3, 1.0)}
ARMS: dict[Arm, tuple[str, str]] = {
    ("none", "small"): ("no normalisation, N(0, 0.01²)", "none, small"),
    ("none", "xavier"): ("no normalisation, Xavier", "none"),
    ("layer", "xavier"): ("layer norm, Xavier", "layer"),
    ("batch", "xavier"): ("batch norm, Xavier", "batch"),
}
FULL_WIDTH = 50
PLAIN: tuple[Arm, ...] = (("none", "small"), ("none", "xavier"))
BATCH: Arm = ("batch", "xavier")

TEXT = ClaimText(
    id="deep-saturating",
    title="Batch norm makes deep sigmoid and tanh networks trainable",
    says="With BN deep networks can use sigmoid and tanh: BN suppresses the vanishing of gradients.",
    measured=(
        "MLPs of growing depth with sigmoid and with tanh. Each arm takes its own best learning rate, by "
        "training loss, of 0.1 to 10 (sigmoid) or 0.01 to 1 (tanh), in factors of about three. Plain networks "
        "start from N(0, 0.01²) and from Xavier's initialisation; the better of the two, seed by seed, is "
        "what BN is held against. "
        "Gradients: norm of the first hidden layer's weight gradient over the last's, at the start; 1: it "
        "neither vanishes nor explodes on its way."
    ),
    threshold=(
        f"Supported if, at the greatest depth, BN's test accuracy exceeds the best plain arm's by more than "
        f"{POINTS:g} points with both activations, and its gradient ratio exceeds the plain Xavier "
        f"network's more than {GRADIENT:g} times with sigmoid, each with the whole 95% interval."
    ),
    does_not_show=(
        "Other remedies (residual connections, careful gains) may do as well. The gradient is measured at "
        "the start only, and the comparison of ratios counts a gradient that explodes as one that does not "
        "vanish: BN's own ratio is printed beside it. A small budget of steps counts slow training as none."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 4.2.2.",
    expected="[IS]: Inception with sigmoid: 69.8% with BN, below 1/1000 without.",
    cost="quick: about 1 minute; full: about 5 minutes",
    changes=(
        "The grid of rates was too coarse and too high for tanh, whose arms were best at its lower end; each "
        "activation now has five rates of its own. All runs were made anew on other seeds. "
        "An arm that does not train at the grid's end is named now, and BN's own gradient ratio is printed."
    ),
)

Trained = Mapping[tuple[Arm, Member], Outcome]


@dataclass(frozen=True)
class _Case:
    activation: str
    depth: int
    subject: Subject
    specs: tuple[TrainSpec, ...]


def _cases(context: Context) -> list[_Case]:
    depths = {"smoke": (2, 4), "quick": (2, 8, 20), "full": (2, 10, 20, 30), "paper": (2, 5, 10, 20, 30)}
    steps = {"smoke": 12, "quick": 150, "full": 400, "paper": 5000}[context.preset]
    cases = []
    for activation in RATES:
        for depth in depths[context.preset]:
            subject = context.subject(mlp(context.preset, depth=depth, activation=activation, steps=steps))
            if context.preset == "full":  # thirty layers, four arms, five rates: narrower, for an hour in all
                subject = replace(subject, network=subject.network.with_options(width=FULL_WIDTH))
            training = Training(subject.data, subject.steps, subject.batch_size, gradients=True)
            wanted = [
                specs(
                    subject.network.with_norm(norm),
                    [Member(seed, rate, init) for seed in range(subject.seeds) for rate in RATES[activation]],
                    training,
                )[0]
                for norm, init in ARMS
            ]
            cases.append(_Case(activation, depth, subject, tuple(wanted)))
    return cases


def measure(context: Context) -> Measurement:
    """Train every arm at every depth and rate, and compare at each arm's best rate."""
    cases = _cases(context)
    wanted = [spec for case in cases for spec in case.specs]
    runs = yield wanted
    done = dict(zip(wanted, runs, strict=True))
    results: dict[tuple[str, int], Trained] = {}
    for case in cases:
        found: dict[tuple[Arm, Member], Outcome] = {}
        for arm, spec in zip(ARMS, case.specs, strict=True):
            members = outcomes([spec], [done[spec]])
            found |= {(arm, member): outcome for (_, member), outcome in members.items()}
        results[case.activation, case.depth] = found
    deepest = max(depth for _, depth in results)
    seeds = cases[0].subject.seeds
    effects: list[Effect] = []
    figures, tables = [], []
    for activation in RATES:
        by_depth = {depth: found for (kind, depth), found in results.items() if kind == activation}
        for depth, trained in by_depth.items():
            effects += _effects(activation, depth, trained, seeds, primary=depth == deepest)
        figures.append(_figure(activation, by_depth, seeds))
        tables.append(_table(activation, by_depth, seeds))
    words = tuple(_words(activation, deepest, results[activation, deepest], seeds) for activation in RATES)
    return ClaimResult(
        TEXT,
        overall(effects),
        words,
        tuple(effects),
        tuple(figures),
        (*tables, subjects_table(*(case.subject for case in cases))),
        runs=tuple(run.key for run in runs),
    )


def _best(trained: Trained, arm: Arm, seeds: int) -> float:
    rates = sorted({member.lr for found, member in trained if found == arm})
    return best_rate(trained, arm, seeds=seeds, rates=rates)


def _accuracy(trained: Trained, arm: Arm, seeds: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return test accuracy in per cent, a seed each, at the arm's best rate."""
    rate = _best(trained, arm, seeds)
    return np.array([100 * trained[arm, Member(s, rate, arm[1])].test_accuracy for s in range(seeds)])


def _gradient_ratio(trained: Trained, arm: Arm, seeds: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return, a seed each, the first over the last hidden layer's gradient norm at the start."""
    first = min(member.lr for _, member in trained)  # at the start the rate does not matter
    members = [Member(seed, first, arm[1]) for seed in range(seeds)]
    gradients = [trained[arm, member].layer_gradient for member in members]
    return np.array([g[0] / g[-2] if g[-2] > 0 else np.nan for g in gradients])


def _effects(activation: str, depth: int, trained: Trained, seeds: int, *, primary: bool) -> list[Effect]:
    plain = np.maximum.reduce([_accuracy(trained, arm, seeds) for arm in PLAIN])
    gain = _accuracy(trained, BATCH, seeds) - plain
    with np.errstate(divide="ignore"):
        gradient = np.log(_gradient_ratio(trained, BATCH, seeds)) - np.log(
            _gradient_ratio(trained, ("none", "xavier"), seeds)
        )
    return [
        difference(
            say("test accuracy, {activation}, {depth} layers", activation=activation, depth=depth),
            "points, batch − best plain",
            list(gain),
            threshold=POINTS,
            primary=primary,
            note=_edges(activation, trained, seeds),
        ),
        ratio(
            say(
                "gradient of first / last layer, {activation}, {depth} layers",
                activation=activation,
                depth=depth,
            ),
            "ratio, batch / none (Xavier)",
            list(gradient),
            threshold=GRADIENT,
            primary=primary and activation == "sigmoid",
        ),
    ]


def _edges(activation: str, trained: Trained, seeds: int) -> str:
    """Say which arms have their best rate at an end of the grid, where a better one may lie.

    Those that do not even train there are named apart: the grid may have cut off a rate at which they do.
    """
    ends = (RATES[activation][0], RATES[activation][-1])
    train: list[str] = []
    fail: list[str] = []
    for arm, (name, _) in ARMS.items():
        rate = _best(trained, arm, seeds)
        if rate in ends:
            trains = any(trained[arm, Member(seed, rate, arm[1])].trains for seed in range(seeds))
            (train if trains else fail).append(name)
    notes: list[str] = []
    if train:
        notes.append(say("best rate at the grid's end: {arms}", arms=listed(train, ", ")))
    if fail:
        notes.append(
            say("best rate at the grid's end, and does not train there: {arms}", arms=listed(fail, ", "))
        )
    return listed(notes) if notes else ""


def _figure(activation: str, by_depth: Mapping[int, Trained], seeds: int) -> Figure:
    depths = tuple(float(depth) for depth in by_depth)
    accuracy, gradient, vanished = [], [], []
    for arm, (name, colour) in ARMS.items():
        columns = np.stack([_accuracy(trained, arm, seeds) for trained in by_depth.values()], axis=1)
        accuracy.append(_marked(mean_curve(name, colour, depths, list(columns))))
        columns = np.stack([_gradient_ratio(trained, arm, seeds) for trained in by_depth.values()], axis=1)
        gradient.append(_marked(mean_curve(name, colour, depths, list(columns), log=True)))
        if (columns == 0).any():
            vanished.append(name)
    axis = Axis("hidden layers")
    return Figure(
        id=f"deep-saturating-{activation}",
        title=say("Depth and {activation}", activation=activation),
        caption=_caption(seeds, vanished),
        alt=say(
            "Accuracy and gradient ratio against depth with {activation}. {found}",
            activation=activation,
            found=_words(activation, int(max(depths)), by_depth[int(max(depths))], seeds),
        ),
        panels=(
            Panel("Accuracy", axis, Axis("test accuracy (%)"), tuple(accuracy)),
            Panel(
                "Vanishing gradient",
                axis,
                Axis("gradient norm, first / last layer", log=True),
                tuple(gradient),
            ),
        ),
    )


def _caption(seeds: int, vanished: list[str]) -> str:
    words = say(
        "Left: mean test accuracy over {seeds} seeds at each arm's best learning rate. Right: norm of the "
        "first hidden layer's gradient over the last's, at the start (1: nothing vanishes; geometric mean). "
        "Bands: 95% intervals.",
        seeds=seeds,
    )
    if not vanished:
        return words
    zero = say("Gradients that are zero in float32 are not drawn: {arms}.", arms=listed(vanished, ", "))
    return listed((words, zero), " ")


def _marked(curve: Curve) -> Curve:
    return Curve(curve.name, curve.arm, curve.x, curve.y, curve.low, curve.high, mode="lines+markers")


def _table(activation: str, by_depth: Mapping[int, Trained], seeds: int) -> Table:
    rows = [
        (
            depth,
            name,
            _best(trained, arm, seeds),
            float(_accuracy(trained, arm, seeds).mean()),
            float(np.median(_gradient_ratio(trained, arm, seeds))),
        )
        for depth, trained in by_depth.items()
        for arm, (name, _) in ARMS.items()
    ]
    return Table(
        say("{activation}: each arm at its best rate", activation=activation),
        ("hidden layers", "arm", "best rate", "test accuracy (%)", "gradient ratio, median"),
        tuple(rows),
    )


def _words(activation: str, depth: int, trained: Trained, seeds: int) -> str:
    parts = [
        say("{arm} {accuracy:.0f}%", arm=name, accuracy=float(_accuracy(trained, arm, seeds).mean()))
        for arm, (name, _) in ARMS.items()
    ]
    ratios = [
        say(
            "{arm} {ratio:.2g}",
            arm=ARMS[arm][0],
            ratio=float(np.median(_gradient_ratio(trained, arm, seeds))),
        )
        for arm in (BATCH, PLAIN[1])
    ]
    return say(
        "{activation}, {depth} hidden layers, mean test accuracy: {accuracies}. Gradient of the first over "
        "the last hidden layer at the start, median (1: it neither vanishes nor explodes): {ratios}.",
        activation=activation,
        depth=depth,
        accuracies=listed(parts),
        ratios=listed(ratios),
    )


CLAIM = Claim(TEXT, measure, takes_networks=False)
