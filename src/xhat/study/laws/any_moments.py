"""Law: γ and β set any mean and variance, and γ = √(σ²+ε), β = μ give the input back.

z = γŷ + β has batch mean β and biased variance γ²σ²/(σ²+ε).
Source: lecture notes, section 3.2; [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.
"""

import torch
from torch import Tensor

from xhat.study.laws._cases import (
    SIZES,
    TOLERANCE,
    TORCH_EPS,
    batch_norm,
    case,
    generator,
    largest,
    moments,
    points,
    uniform,
    worst,
)
from xhat.study.result import Axis, Curve, Figure, LawResult, Panel, Table, law_check


def check(seed: int = 0) -> LawResult:
    """Ask for random moments and for the identity, on random batches."""
    rng = generator(seed)
    means, variances, identities = [], [], []
    for m in SIZES:
        for _ in range(4):
            y = case(rng, m).y
            mean, variance = uniform(rng, -10, 10, y.shape[1]), 10 ** uniform(rng, -2, 2, y.shape[1])
            reached = moments(_with_moments(y, mean, variance))
            means.append(worst(reached[0], mean, mean.abs() + variance.sqrt()))
            variances.append(worst(reached[1], variance, variance))
            mu, var = moments(y)
            identities.append(worst(_identity(y), y, mu.abs() + var.sqrt()))
    figure, table = _example(rng)
    # Rounding in z is relative to |β|, up to 100 standard deviations here; TOLERANCE leaves room for that.
    return LawResult(
        id="any-moments",
        title="γ and β set any mean and variance",
        statement="z = γŷ + β has batch mean β and biased variance γ²σ²/(σ²+ε). So γ = s·√((σ²+ε)/σ²) and "
        "β = t give standard deviation s and mean t; γ = √(σ²+ε) and β = μ give the input back.",
        source="Lecture notes, section 3.2; [IS] arXiv 1502.03167, section 3",
        checks=(
            law_check("mean asked for is reached", largest(means), TOLERANCE),
            law_check("variance asked for is reached", largest(variances), TOLERANCE),
            law_check("γ = √(σ²+ε), β = μ give the input back", largest(identities), TOLERANCE),
        ),
        figures=(figure,),
        tables=(table,),
        note="BN with γ and β takes nothing away from what a layer can express on a given batch. It is "
        "an affine map of each feature, so the shape of a distribution, such as its skew, stays as it "
        "was.",
    )


def _with_moments(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    var = moments(y)[1]
    gamma = (variance * (var + TORCH_EPS) / var).sqrt()
    return batch_norm(y, gamma, mean, eps=TORCH_EPS)


def _identity(y: Tensor) -> Tensor:
    mean, variance = moments(y)
    return batch_norm(y, (variance + TORCH_EPS).sqrt(), mean, eps=TORCH_EPS)


def _example(rng: torch.Generator) -> tuple[Figure, Table]:
    # An exponential distribution: its skew shows that BN moves and stretches, and does no more.
    y = -uniform(rng, 1e-3, 1.0, 200, 1).log() * 2 - 6
    mean, variance = torch.tensor([[3.0], [0.25]], dtype=torch.float64)
    outputs = {
        "input": ("none", y),
        "standardised": ("batch", batch_norm(y, eps=TORCH_EPS)),
        "mean 3, variance 0.25 asked for": ("moved", _with_moments(y, mean, variance)),
        "input given back": ("identity", _identity(y)),
    }
    share = points((torch.arange(200) + 0.5) / 200)
    curves: list[Curve] = []
    rows: list[tuple[str, float, float]] = []
    for name, (arm, z) in outputs.items():
        curves.append(Curve(name, arm, points(z.sort(0).values), share, dashed=arm == "identity"))
        reached = moments(z)
        rows.append((name, float(reached[0]), float(reached[1])))
    axes = Axis("value of the feature"), Axis("share of the batch below the value")
    figure = Figure(
        id="any-moments-distributions",
        title="One batch, moved and stretched by γ and β",
        caption="Each curve is the cumulative distribution of the same 200 values. γ sets its width and "
        "β its place; the dashed curve uses γ = √(σ²+ε), β = μ and lies on the input.",
        alt="Four cumulative curves of one skewed shape: the input left of zero, the standardised batch "
        "around zero, a narrow one around 3, and a dashed one exactly on the input.",
        panels=(Panel("Cumulative distribution", *axes, tuple(curves)),),
    )
    columns = ("batch", "mean", "biased variance")
    return figure, Table("Moments of the batch in the figure", columns, tuple(rows))
