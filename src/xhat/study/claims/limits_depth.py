"""limits-depth: with BN gradients grow with depth, and deep networks do not train.

Source: Yang et al. 2019, A Mean Field Theory of Batch Normalization (arXiv 1902.08129).
Expected there: with BN and ReLU the gradient's norm grows by √(π/(π−1)) ≈ 1.211 a layer towards the input,
for infinite width and batch, whatever the initial variance; plain BN networks of about 50 layers do not
train.
Cost on 2 cores: quick about 1 minute, full about 3.
Command: xhat study --claims limits-depth
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._arms import NAMES, grouped_table, left_out, on_rates, trained
from xhat.study.claims._growth import RELU, growth, hidden_gradients
from xhat.study.claims._limits_depth_figures import accuracy_figure, gradient_figure, growth_table, words
from xhat.study.claims._tuned import Tuned, Tuning, tuned
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table
from xhat.study.verdict import difference

# Committed before the first run.
MARGIN = 0.03  # of the growth factor a layer, around the theory's
LOST = 10.0  # points of test accuracy that BN loses from the shallowest to the deepest network
FACTOR_OF_HE = 1.0  # what He's initialisation is made for, without normalisation; outside the verdict
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# Activation and normalisation of the wide networks whose gradients are read.
WIDE = (
    ("relu", "batch"),
    ("relu", "none"),
    ("relu", "layer"),
    ("tanh", "batch"),
    ("tanh", "none"),
    ("identity", "batch"),
    ("identity", "none"),
)

TEXT = ClaimText(
    id="limits-depth",
    title="With batch norm gradients grow with depth, and deep networks do not train",
    says=(
        "Not in the notes, but a limit of what they say: BN helps deep networks, but not without end. With it "
        "gradients grow by a fixed factor a layer at initialisation, whatever the initial variance, and very "
        "deep networks do not train."
    ),
    measured=(
        "Wide MLPs at initialisation, 40 layers of 256 units (full: 400), batches of 256: norm of each hidden "
        "layer's weight gradient on one batch; the growth "
        "factor a layer is read by least squares on the logarithms over the middle half of the layers. The "
        "weight gradient joins the gradient that comes from above with the layer's input; since all layers "
        "are of one width and the inputs of inner layers are alike, the ratio of neighbours is the growth "
        "of the former. Without BN the inputs of deep layers resemble each other more and more, and the factor "
        "reads a little lower than that of the gradient from above. "
        "Then narrow ReLU MLPs of growing depth, He initialisation, trained with and without "
        f"BN, each at its own best learning rate of {RATES[0]:g} to {RATES[-1]:g}, by training loss. Outside "
        "the verdict: what BN's lead over the plain network falls by."
    ),
    threshold=(
        f"Supported if BN's growth factor with ReLU lies within {MARGIN:g} of {RELU:.4f} (equivalence), and "
        f"BN's test accuracy falls by more than {LOST:g} points from the shallowest to the deepest network, "
        "each with the whole 95% interval."
    ),
    does_not_show=(
        "The theory is for infinite width and batch. Networks without residual connections: with them "
        "gradients grow far less. Growth at the start is not growth in training, where large gradients make "
        "weights large and BN then makes their gradients small. A small budget of steps counts slow training "
        "as none. The verdict holds two things side by side, the growth of gradients and the loss of accuracy; "
        "it does not say that the one comes from the other. A plain network, whose gradients hardly grow, may "
        "lose as much with depth: see it beside BN, and what BN's lead over it falls by."
    ),
    source="Yang et al. 2019, arXiv 1902.08129.",
    expected=(
        "Yang et al.: with ReLU √(π/(π−1)) ≈ 1.211 a layer; networks with BN of about 50 layers do not train."
    ),
    cost="quick: about 1 minute; full: about 3 minutes",
    changes=(
        "After a first run of quick, whose 120 steps left most networks of 20 layers untrained, full trains "
        "for 600 steps, not 300, at depths 8, 20 and 60. Before the final runs the "
        "grid of rates, which began at 0.01, was extended to 0.001, since where gradients grow smaller rates "
        "may be best, and what BN's lead falls by was added outside the verdict. Thresholds stayed."
    ),
)

Wide = Mapping[tuple[str, str], Sequence[Outcome]]  # by activation and normalisation, an outcome a seed


def measure(context: Context) -> Measurement:
    """Read the growth of gradients in wide networks, and train narrow ones of growing depth."""
    wide_subjects = {kind: _wide(context, kind) for kind, _ in WIDE}
    deep = {depth: _deep(context, depth) for depth in _depths(context.preset)}
    trainings = yield from together(*(_trained(subject) for subject in deep.values()))
    wide, keys = yield from _gradients(wide_subjects)
    by_depth = {depth: arms for depth, (arms, _) in zip(deep, trainings, strict=True)}
    effects = [*_growth_effects(wide), *_depth_effects(by_depth)]
    return ClaimResult(
        TEXT,
        overall(effects),
        words(wide, by_depth),
        tuple(effects),
        (gradient_figure(wide, wide_subjects["relu"]), accuracy_figure(by_depth)),
        (
            growth_table(wide),
            grouped_table("Narrow MLPs: each arm at its best rate", "hidden layers", by_depth),
            subjects_table(*wide_subjects.values(), *deep.values()),
        ),
        runs=tuple(dict.fromkeys((*keys, *(key for _, more in trainings for key in more)))),
    )


def _depths(preset: str) -> tuple[int, ...]:
    return {"smoke": (2, 4), "quick": (8, 20, 50)}.get(preset, (8, 20, 60))


def _wide(context: Context, activation: str) -> Subject:
    """Return the wide network; one step, since its gradients are read before it."""
    depth, width, batch, steps = {
        "smoke": (8, 16, 32, 12),
        "quick": (40, 256, 256, 1),
        "full": (40, 400, 256, 1),
        "paper": (60, 1000, 1024, 1),
    }[context.preset]
    subject = mlp(context.preset, depth=depth, activation=activation, steps=steps)
    network = subject.network.with_options(width=width)
    data = replace(subject.data, test=200)
    return context.subject(replace(subject, name="wide MLP", network=network, data=data, batch_size=batch))


def _deep(context: Context, depth: int) -> Subject:
    width, steps = {"smoke": (16, 12), "quick": (32, 120), "full": (32, 600), "paper": (100, 5000)}[
        context.preset
    ]
    subject = mlp(context.preset, depth=depth, steps=steps)
    return context.subject(replace(subject, network=subject.network.with_options(width=width)))


def _gradients(
    subjects: Mapping[str, Subject],
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[Wide, tuple[str, ...]]]:
    wanted = []
    for activation, norm in WIDE:
        subject = subjects[activation]
        training = Training(subject.data, subject.steps, subject.batch_size, gradients=True)
        members = [Member(seed, RATES[0], subject.init) for seed in range(subject.seeds)]
        wanted += specs(subject.network.with_norm(norm), members, training)
    runs = yield wanted
    found = [list(outcomes([spec], [run]).values()) for spec, run in zip(wanted, runs, strict=True)]
    return dict(zip(WIDE, found, strict=True)), tuple(run.key for run in runs)


def _trained(subject: Subject) -> Tuning:
    arms = {norm: subject.network.with_norm(norm) for norm in ("none", "batch")}
    return tuned(subject, arms, rates=RATES)


def _growth_effects(wide: Wide) -> list[Effect]:
    effects = []
    for activation, norm in WIDE:
        if activation != "relu":
            continue  # no factor was expected beforehand: figure and table show them
        expected = RELU if norm == "batch" else FACTOR_OF_HE
        factors = np.array([growth(hidden_gradients(outcome)) for outcome in wide[activation, norm]])
        known = factors[np.isfinite(factors)]
        effects.append(
            difference(
                say(
                    "growth of gradients a layer, ReLU, {arm}, less {expected:.4f}",
                    arm=NAMES[norm],
                    expected=expected,
                ),
                "factor a layer",
                list(known - expected),
                threshold=MARGIN,
                rule="within",
                primary=norm == "batch",
            )
        )
    return effects


def _depth_effects(by_depth: Mapping[int, Mapping[str, Tuned]]) -> list[Effect]:
    shallow, deep = min(by_depth), max(by_depth)
    effects = []
    for arm in ("batch", "none"):
        kept = trained(by_depth[shallow][arm])
        notes = [
            left_out(int((~kept).sum()), arm),
            on_rates({arm: by_depth[shallow][arm]}),
            on_rates({arm: by_depth[deep][arm]}),
        ]
        effects.append(
            difference(
                say(
                    "test accuracy lost from {shallow} to {deep} layers, {arm}",
                    shallow=shallow,
                    deep=deep,
                    arm=NAMES[arm],
                ),
                "points",
                list((by_depth[shallow][arm].accuracy - by_depth[deep][arm].accuracy)[kept]),
                threshold=LOST,
                primary=arm == "batch",
                note=listed(list(dict.fromkeys(note for note in notes if note)), "; "),
            )
        )
    lead = {depth: arms["batch"].accuracy - arms["none"].accuracy for depth, arms in by_depth.items()}
    both = trained(by_depth[shallow]["batch"]) & trained(by_depth[shallow]["none"])
    out = int((~both).sum())
    effects.append(
        difference(
            say("lead of BN lost from {shallow} to {deep} layers", shallow=shallow, deep=deep),
            "points, lead over no normalisation",
            list((lead[shallow] - lead[deep])[both]),
            threshold=0.0,
            primary=False,
            note=say("{count} seeds left out, where an arm does not train", count=out) if out else "",
        )
    )
    effects += [
        difference(
            say("test accuracy, {depth} layers", depth=depth),
            "points, batch norm − no normalisation",
            list(values),
            threshold=0.0,
            primary=False,
        )
        for depth, values in lead.items()
    ]
    return effects


CLAIM = Claim(TEXT, measure, takes_networks=False)
