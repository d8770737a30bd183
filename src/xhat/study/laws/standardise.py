"""Law: after normalisation the batch mean is 0 and the biased batch variance is σ²/(σ²+ε).

ŷ = (y − μ)/√(σ² + ε) with μ and σ² over the batch; σ² is biased, divided by m.
Source: lecture notes, section 3.2 (ε = 1e-8); [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, Alg. 1.
"""

import torch

from xhat.lang import say
from xhat.study.laws._cases import (
    NOTES_EPS,
    SIZES,
    TOLERANCE,
    TORCH_EPS,
    batch_norm,
    case,
    generator,
    largest,
    moments,
    normal,
    points,
    standardized,
    worst,
)
from xhat.study.result import Axis, Curve, Figure, LawCheck, LawResult, Panel, law_check

EPSILONS = {"ε = 1e-8 (notes)": NOTES_EPS, "ε = 1e-5 (PyTorch)": TORCH_EPS}


def check(seed: int = 0) -> LawResult:
    """Check mean, variance and every value of standardised random batches."""
    rng = generator(seed)
    batches = [case(rng, m).y for m in SIZES for _ in range(3)]
    checks: list[LawCheck] = []
    for name, eps in EPSILONS.items():
        means, variances, values = [], [], []
        for y in batches:
            out = batch_norm(y, eps=eps)
            mean, variance = moments(out)
            var = moments(y)[1]
            expected = var / (var + eps)
            means.append(worst(mean, torch.zeros_like(mean)))
            variances.append(worst(variance, expected, expected))
            values.append(worst(out, standardized(y, eps)))
        checks += [
            law_check(say("batch mean is 0, {eps}", eps=name), largest(means), TOLERANCE),
            law_check(say("biased variance is σ²/(σ²+ε), {eps}", eps=name), largest(variances), TOLERANCE),
            law_check(say("values are (y−μ)/√(σ²+ε), {eps}", eps=name), largest(values), TOLERANCE),
        ]
    # Sums of small integers are exact, so σ² is exactly 0 here.
    constant = torch.full((8, 1), 3.0, dtype=torch.float64)
    flat = [float(batch_norm(constant, eps=eps).abs().max()) for eps in EPSILONS.values()]
    checks += [
        law_check("a constant feature (σ² = 0) gives 0", largest(flat), 0.0),
        law_check("PyTorch's default ε is 1e-5", abs(torch.nn.BatchNorm1d(1).eps - TORCH_EPS), 0.0),
    ]
    return LawResult(
        id="standardise",
        title="Standardisation",
        statement="After normalisation, ŷ = (y−μ)/√(σ²+ε), each feature has batch mean 0 and biased batch "
        "variance σ²/(σ²+ε): close to 1 as long as σ² is much larger than ε.",
        source="Lecture notes, section 3.2; [IS] arXiv 1502.03167, Alg. 1",
        checks=tuple(checks),
        figures=(_figure(rng),),
        note="ε keeps the denominator from zero. It is 1e-8 in the notes and 1e-5 in PyTorch; a feature "
        "with a variance near ε is not brought to variance 1.",
    )


def _figure(rng: torch.Generator) -> Figure:
    variance = torch.logspace(-12, 2, 29, dtype=torch.float64)
    y = standardized(normal(rng, 64, 1), 0.0) * variance.sqrt()
    curves: list[Curve] = []
    for name, eps in EPSILONS.items():
        measured = moments(batch_norm(y, eps=eps))[1]
        line = points(variance / (variance + eps))
        curves += [
            Curve(say("σ²/(σ²+ε), {eps}", eps=name), name, points(variance), line),
            Curve(say("measured, {eps}", eps=name), name, points(variance), points(measured), mode="markers"),
        ]
    axes = Axis("biased variance σ² of the input", log=True), Axis("biased variance of the output")
    return Figure(
        id="standardise-variance",
        title="Which variances ε lets through",
        caption="Points are measured, lines are the formula. The output variance is 1 where σ² is far above "
        "ε, one half at σ² = ε, and falls to 0 below. There are no bands: nothing here is estimated.",
        alt="Two S-shaped curves rise from 0 to 1 as the input variance grows, one centred at 1e-8 and one "
        "at 1e-5. The measured points lie on the curves.",
        panels=(Panel("Output variance", *axes, tuple(curves)),),
    )
