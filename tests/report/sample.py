"""A study made by hand, with what real ones hold: sliders, log axes, gaps, bands and hostile names."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from xhat.study.result import (
    Axis,
    ClaimResult,
    ClaimText,
    Curve,
    Effect,
    Environment,
    Figure,
    Frame,
    LawResult,
    Panel,
    Study,
    Table,
    law_check,
    overall,
)

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(2)>"
LINK = '<a href="javascript:alert(3)">here</a>'

STEPS = tuple(float(step) for step in range(0, 241, 6))


def curve(name: str, arm: str, shape: Callable[[float], float], *, x=STEPS, spread=0.0, **more) -> Curve:
    rng = np.random.default_rng(len(name) + len(arm))
    y = tuple(float(shape(at) * (1 + 0.05 * rng.standard_normal())) for at in x)
    if spread:
        more |= {"low": tuple(v * (1 - spread) for v in y), "high": tuple(v * (1 + spread) for v in y)}
    return Curve(name, arm, tuple(x), y, **more)


def landscape() -> Figure:
    """Three panels with bands, one logarithmic, with a gap and values that no log axis shows."""
    gap = curve("no norm", "none", lambda s: 30 * math.exp(-s / 90) + 4, spread=0.3)
    y = tuple(math.nan if 15 <= nth < 18 else v for nth, v in enumerate(gap.y))
    wide = curve("no norm", "none", lambda s: 20 + 15 * math.sin(s / 20), spread=0.4)
    return Figure(
        id="gradient",
        title="The loss and the gradient along a step, through training",
        caption="Each step of training is probed with eight step lengths from half to four times the learning "
        "rate. Lines are means over 6 seeds, bands their 95% t-intervals; lower is smoother.",
        alt="Three panels against the training step. With batch norm the range of the loss, the change of the "
        "gradient and the effective smoothness lie below the plain network's nearly everywhere.",
        panels=(
            Panel(
                "Range of the loss along the step",
                Axis("training step"),
                Axis("largest − smallest L(w − ηg)"),
                (
                    curve("batch norm", "batch", lambda s: 2.2 * math.exp(-s / 50) + 0.2, spread=0.2),
                    curve("no norm", "none", lambda s: 2.2 * math.exp(-s / 130) + 0.5, spread=0.25),
                ),
            ),
            Panel(
                "Change of the gradient",
                Axis("training step"),
                Axis("‖g − ∇L(w − ηg)‖₂", log=True),
                (
                    curve("batch norm", "batch", lambda s: 3 * math.exp(-s / 60) + 0.4, spread=0.3),
                    replace(gap, y=y, low=tuple(v - 12 for v in y)),
                ),
            ),
            Panel(
                "Effective smoothness β",
                Axis("training step"),
                Axis("largest ‖g − ∇L(w − ηg)‖ / (η‖g‖)"),
                (curve("batch norm", "batch", lambda s: 17 + s / 60, spread=0.2), wide),
            ),
        ),
    )


def _loss(rate: float, limit: float, scale: float) -> float:
    return 0.05 + scale * abs(math.log10(rate / limit)) ** 2 if rate < limit else math.inf


def rates() -> Figure:
    x = tuple(10 ** (-3 + nth / 4) for nth in range(15))
    names = ((("batch norm", "batch"), 3.0), (("no norm", "none"), 0.2), (("group norm", "group"), 1.0))
    return Figure(
        id="rates",
        title="Final training loss by learning rate",
        caption="Points are seeds’ means; a run that diverges has no point. The dashed line is half of chance.",
        alt="Loss against learning rate on a logarithmic axis. The plain network fails at a tenth of the rate.",
        panels=tuple(
            Panel(
                title,
                Axis("learning rate", log=True),
                Axis("final training loss", log=True),
                (
                    *(
                        Curve(name, arm, x, tuple(_loss(v, limit, scale) for v in x), mode="lines+markers")
                        for (name, arm), limit in names
                    ),
                    Curve("half of chance", "threshold", (x[0], x[-1]), (1.15, 1.15), dashed=True),
                ),
            )
            for title, scale in (("MLP, 8 layers", 0.3), ("VGG-like, 8 convolutions", 0.2))
        ),
    )


def depths() -> Figure:
    x = (2.0, 5.0, 10.0, 20.0, 30.0)
    return Figure(
        id="depth",
        title="Accuracy and gradient by depth, sigmoid and tanh",
        caption="Bands are 95% t-intervals over 10 seeds.",
        alt="Four panels. Without norm the accuracy falls to chance beyond ten layers.",
        panels=tuple(
            Panel(
                f"{name}: {what}",
                Axis("layers"),
                Axis(unit, log=log),
                tuple(
                    curve(
                        label,
                        arm,
                        lambda d, s=fall, t=top: t * math.exp(-d / s),
                        x=x,
                        spread=0.08,
                        mode="lines+markers",
                        dashed=dashed,
                    )
                    for label, arm, fall, dashed in (
                        ("batch norm", "batch", 90, False),
                        ("none, N(0, 0.01²)", "none", 2, True),
                        ("none, Xavier", "none", 12, False),
                        ("layer norm", "layer", 50, False),
                    )
                ),
            )
            for name in ("sigmoid", "tanh")
            for what, unit, log, top in (
                ("accuracy", "test accuracy, share", False, 0.88),
                ("gradient of the first layer", "‖∇L‖₂ of the first layer’s weights", True, 1.0),
            )
        ),
    )


def drift() -> Figure:
    """A slider over training: distributions by layer, with a cloud of points beside them."""
    bins = tuple(np.linspace(-6, 6, 61).tolist())

    def at(step: int) -> Frame:
        wide, rng = 1 + step / 120, np.random.default_rng(step)
        bell = lambda x, m, s: math.exp(-(((x - m) / s) ** 2) / 2) / s  # noqa: E731
        cloud = [
            (
                f"{name} units",
                name,
                tuple((rng.standard_normal(40) * s).tolist()),
                tuple(rng.random(40).tolist()),
            )
            for name, s in (("batch", 1.0), ("none", wide))
        ]
        return Frame(
            f"{step}",
            (
                Panel(
                    "Before the activation",
                    Axis("value, in units of its own spread at the start"),
                    Axis("density"),
                    (
                        Curve("batch norm", "batch", bins, tuple(bell(x, 0, 1) for x in bins)),
                        Curve("no norm", "none", bins, tuple(bell(x, step / 80, wide) for x in bins)),
                        Curve(
                            "no norm, lr 0.5",
                            "none",
                            bins,
                            tuple(bell(x, -1, 0.4 + step / 800) for x in bins),
                        ),
                    ),
                ),
                Panel(
                    "Mean and dead share by unit",
                    Axis("mean of the unit"),
                    Axis("share of inputs at which it is dead"),
                    tuple(Curve(*points, mode="markers") for points in cloud),
                ),
            ),
        )

    frames = tuple(at(step) for step in range(0, 241, 20))
    return Figure(
        id="drift",
        title="Distributions of a hidden layer through training",
        caption="Move the slider through training. The axes stay as they are.",
        alt="Two panels that change with the training step: densities, and a cloud of units.",
        panels=frames[0].panels,
        frames=frames,
        slider="training step",
    )


def scales() -> Figure:
    x = tuple(10.0 ** (nth / 2) for nth in range(-4, 5))
    return Figure(
        id="scales",
        title=f"Accuracy by scale of the first weights {SCRIPT}",
        caption=f"A user’s own names: {IMAGE} and {LINK}.",
        alt=f'Accuracy against scale, "quoted" {IMAGE}',
        panels=(
            Panel(
                f"<b>bold?</b> {LINK}",
                Axis(f"scale of the weights {IMAGE}", log=True),
                Axis(f"test accuracy {SCRIPT}"),
                (
                    curve(f"my & net {SCRIPT}", "batch", lambda s: 0.8, x=x, spread=0.02),
                    curve(IMAGE, "none", lambda s: 0.75 / (1 + math.log10(s) ** 2), x=x, spread=0.06),
                    curve(LINK, LINK, lambda s: 0.6, x=x),
                ),
            ),
        ),
    )


def text(name: str, title: str, **more: str) -> ClaimText:
    words = {
        "says": "With batch norm the loss surface is smoother, so that the gradient predicts it further ahead "
        "and larger steps can be taken.",
        "measured": "A VGG-like network on Fashion-MNIST, with and without batch norm, from the same seeds and "
        "in the same order of data. At every 20th step the loss and its gradient are taken at eight points "
        "along the gradient, on the same batch and in training mode.",
        "threshold": "Supported if every primary effect’s 95% interval lies above 1; contradicted if one lies "
        "below and none above; otherwise inconclusive.",
        "does_not_show": "That smoothness is the cause of faster training, nor anything of other data sets.",
        "source": "Santurkar, Tsipras, Ilyas, Madry 2018 (arXiv 1805.11604), section 3 and figure 4.",
        "expected": "Figure 4b, at η = 0.4: about 255 without and 38 with batch norm.",
        "cost": "smoke 2 s, quick 3 min, full 25 min",
    }
    return ClaimText(name, title, **(words | more))


def effect(name: str, unit: str, interval: tuple[float, float, float], threshold: float, **more) -> Effect:
    low, estimate, high = interval
    rule = more.pop("rule", "above")
    inside = low > threshold if rule == "above" else max(abs(low), abs(high)) < threshold
    outside = high < threshold if rule == "above" else min(abs(low), abs(high)) > threshold and low * high > 0
    verdict = "supported" if inside else "contradicted" if outside else "inconclusive"
    return Effect(name, unit, estimate, low, high, threshold, rule, more.pop("seeds", 6), verdict, **more)


def claim(
    words: ClaimText, found: tuple[str, ...], effects: tuple[Effect, ...], *figures: Figure, **more
) -> ClaimResult:
    keys = tuple(f"{nth * 0x9E3779B97F4A7C15 % 2**64:016x}" for nth in range(1, 13))
    return ClaimResult(words, overall(effects), found, effects, figures, runs=keys, seconds=412.0, **more)


def claims() -> tuple[ClaimResult, ...]:
    ratio = "ratio, none / batch"
    return (
        claim(
            text("smoother-loss", "The loss is smoother and its gradient predicts further"),
            (
                "Along a step of four learning rates the plain network’s loss ranged 2.31 times as far as with "
                "batch norm [1.84, 2.90].",
                "One of 12 plain runs collapsed to chance and was kept out: a collapsed network has the "
                "smoothest loss of all.",
            ),
            (
                effect("Range of the loss", ratio, (1.84, 2.31, 2.9), 1.0),
                effect("Change of the gradient", ratio, (3.1, 5.62, 10.4), 1.0),
                effect(
                    "Effective smoothness β",
                    ratio,
                    (0.81, 1.19, 1.74),
                    1.0,
                    primary=False,
                    note="the notes do not name it",
                ),
            ),
            landscape(),
            tables=(
                Table(
                    "Runs that train",
                    ("arm", "learning rate", "trained", "of", "median final loss"),
                    (
                        ("batch", 0.1, 6, 6, 0.1234),
                        ("none", 0.1, 5, 6, 0.4321),
                        ("none", 0.5, 0, 6, math.nan),
                    ),
                ),
            ),
        ),
        claim(
            text("larger-lr", "Larger learning rates are usable"),
            ("The largest rate that trains is at least 17.8 times as large with batch norm.",),
            (
                effect(
                    "Largest rate that trains, MLP",
                    "ratio, batch / none",
                    (9.7, 17.8, 32.6),
                    2.0,
                    at_least=True,
                ),
                effect("Largest rate that trains, VGG", "ratio, batch / none", (2.4, 4.1, 7.2), 2.0),
            ),
            rates(),
        ),
        claim(
            text("deep-saturating", "Deep sigmoid and tanh networks become trainable"),
            ("With 30 sigmoid layers the plain network stays at chance under every initialisation tried.",),
            (
                effect(
                    "Accuracy at 30 layers",
                    "points of accuracy, batch − best plain",
                    (-3.2, 21.4, 46.0),
                    5.0,
                    seeds=10,
                ),
            ),
            depths(),
        ),
        claim(
            text(
                "init-insensitive",
                f"Training does not depend on the initial scale {SCRIPT}",
                says=f"A user’s own words {IMAGE}",
            ),
            (f"Sentence with {SCRIPT} and {LINK}.",),
            (
                effect(
                    f"Loss of accuracy at ×10 {IMAGE}",
                    f"points {SCRIPT}",
                    (-9.1, -6.4, -3.7),
                    1.0,
                    rule="within",
                    seeds=10,
                ),
                effect(
                    "Loss of accuracy at ×0.1",
                    "points of accuracy",
                    (1.2, 2.3, 3.4),
                    1.0,
                    rule="within",
                    seeds=10,
                ),
                effect(
                    "Loss of accuracy at ×100",
                    "points of accuracy",
                    (math.nan,) * 3,
                    1.0,
                    rule="within",
                    seeds=0,
                    primary=False,
                    note="no run trained",
                ),
            ),
            scales(),
            tables=(Table(f"Cells {SCRIPT}", ("name", IMAGE), ((SCRIPT, 1.5e-7), (LINK, 123456.0))),),
        ),
        claim(
            text(
                "diverging-distributions",
                "Do distributions tell a network that trains from one that does not?",
            ),
            ("Collapsed networks had the most stable distributions of all.",),
            (
                effect(
                    "Collapsed networks drift less",
                    "ratio, training / collapsed",
                    (4.2, 9.8, 22.8),
                    1.0,
                    seeds=10,
                ),
                effect(
                    "Oscillating networks show period two",
                    "lag-2 − lag-1 autocorrelation",
                    (-0.12, 0.31, 0.74),
                    0.0,
                    seeds=10,
                ),
            ),
            drift(),
        ),
    )


def laws() -> tuple[LawResult, ...]:
    x = tuple(10.0 ** (nth / 2) for nth in range(-4, 5))
    error = Figure(
        "epsilon",
        "Error of the invariance by scale",
        "Exact at ε = 0; with ε it falls as ε/(a²σ²).",
        "Two straight lines falling with the scale, the upper with slope −2.",
        (
            Panel(
                "",
                Axis("scale a", log=True),
                Axis("largest error of BN(aWu) against BN(Wu)", log=True),
                (
                    Curve("ε = 1e-5", "batch", x, tuple(1e-5 / v**2 for v in x), mode="lines+markers"),
                    Curve("ε = 0", "layer", x, tuple(2e-16 for _ in x)),
                ),
            ),
        ),
    )
    named = (
        ("standardise", "After normalisation the mean is 0 and the biased variance σ²/(σ²+ε)"),
        ("any-moments", "γ and β set any mean and variance"),
        ("gradients", "dγ = ⟨g, ŷ⟩ and dβ = Σg, under any gradient method"),
        ("bias-cancels", "A bias before batch norm changes nothing in training"),
        ("scale-invariance", "The scale of the weights changes nothing"),
        ("lipschitz", "The gradient before batch norm, exactly (Theorem 4.1)"),
        ("curvature", "The curvature before batch norm, exactly (Theorem 4.2)"),
        ("inference", "Evaluation uses the population’s moments"),
    )
    return tuple(
        LawResult(
            name,
            title,
            "BN(aWu) = BN(Wu) for a > 0, and ⟨w, ∇L⟩ = 0.",
            "Ioffe, Szegedy 2015, section 3.3.",
            (
                law_check("largest over 200 random cases", 3.1e-15 * (nth + 1), 1e-12),
                law_check("the printed form", 0.31 if name == "lipschitz" else 2e-16, 1e-12),
            ),
            figures=(error,) if name == "scale-invariance" else (),
            note="The printed form fails." if name == "lipschitz" else "",
        )
        for nth, (name, title) in enumerate(named)
    )


def study(**more) -> Study:
    return replace(
        Study(
            preset="quick",
            asked="Every claim of the notes and every law.",
            subject=f"my_net:model on my_net:data {SCRIPT}",
            started="2026-11-08T14:03:21+00:00",
            seconds=1394.0,
            environment=Environment(
                xhat="0.1.0",
                commit="0123abc",
                python="3.13.5",
                torch="2.13.0",
                numpy="2.4.0",
                platform="Linux-6.12-x86_64",
                processor="Some CPU @ 2.60GHz",
                cores=2,
                workers=2,
                threads_per_run=1,
                memory_reused=False,
            ),
            claims=claims(),
            laws=laws(),
            unfinished=("faster", "regularises"),
            problems=(f"larger-lr, seed 3: the worker ended (signal 9) {IMAGE}",),
        ),
        **more,
    )
