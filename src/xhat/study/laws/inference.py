"""Law: in eval mode BN uses population estimates, E[μ_B] and m/(m−1)·E[σ²_B].

Training normalises with the biased variance σ²_B = Σ(y−μ_B)²/m, whose mean over batches is (m−1)/m of the
population's variance; the factor m/(m−1) undoes that. [IS] Alg. 2 averages over batches, which PyTorch does
with momentum=None; with a number it keeps running = (1−momentum)·running + momentum·batch.
Source: [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.1 and Alg. 2.
"""

import torch
from torch import Tensor, nn

from xhat.lang import say
from xhat.study.laws._cases import (
    SIZES,
    TOLERANCE,
    TORCH_EPS,
    case,
    generator,
    largest,
    moments,
    normal,
    points,
    standardized,
    uniform,
    worst,
)
from xhat.study.result import Axis, Curve, Figure, LawCheck, LawResult, Panel, Table, law_check

POPULATION = 3  # values; all 3^m batches drawn with replacement are enumerated
ENUMERATED = (2, 3, 4, 5, 6, 7, 8)  # their batch sizes m
BATCHES = 12
MOMENTUM = 0.1


def check(seed: int = 0) -> LawResult:
    """Compare torch's statistics and eval outputs with the formulas, and enumerate all batches."""
    rng = generator(seed)
    runs = [_average(rng, m) | _exponential(rng, m) for m in SIZES]
    checks: list[LawCheck] = [
        law_check(name, largest([run[name] for run in runs]), TOLERANCE) for name in runs[0]
    ]
    factor = torch.tensor([(m - 1) / m for m in ENUMERATED], dtype=torch.float64)
    biased, unbiased = _enumerate(normal(rng, POPULATION))
    one = torch.ones_like(factor)
    checks += [
        law_check("mean of σ²_B over all batches is (m−1)/m·σ²", worst(biased, factor), TOLERANCE),
        law_check("mean of running_var over all batches is σ²", worst(unbiased, one), TOLERANCE),
    ]
    return LawResult(
        id="inference",
        title="What BN uses in eval mode",
        statement="Eval mode uses E[μ_B] and m/(m−1)·E[σ²_B] in place of the batch's statistics; "
        "training uses the biased σ²_B. PyTorch keeps running = (1−momentum)·running + momentum·batch "
        "with the unbiased variance, or with momentum=None the plain average over batches.",
        source="[IS] arXiv 1502.03167, section 3.1 and Alg. 2",
        checks=tuple(checks),
        figures=(_figure(biased, unbiased),),
        tables=(_table(biased, unbiased),),
        note="The biased variance is on average half of the population's at m = 2 and 0.8% low at m = "
        "128. PyTorch's momentum is the weight of the new batch; in Keras it is the weight of the old "
        "value.",
    )


def _average(rng: torch.Generator, m: int) -> dict[str, float]:
    """Return the errors of [IS] Alg. 2: the average over batches."""
    drawn = case(rng, m)
    gamma, beta, y = drawn.gamma, drawn.beta, drawn.y
    layer = nn.BatchNorm1d(y.shape[1], momentum=None, dtype=torch.float64)
    layer.load_state_dict({"weight": gamma, "bias": beta}, strict=False)
    batches = _batches(rng, y)
    # |y| is about 10σ at most, so this is the size of the two parts that the affine form subtracts.
    size = 10 * gamma.abs() + beta.abs()
    trained = [worst(layer(b).detach(), gamma * standardized(b, TORCH_EPS) + beta, size) for b in batches]
    mean, variance = (torch.stack(part).mean(0) for part in zip(*map(moments, batches), strict=True))
    variance = variance * m / (m - 1)
    slope = gamma / (variance + TORCH_EPS).sqrt()
    out = layer.eval()(y).detach()
    running_mean, running_var = _buffers(layer)
    return {
        "training normalises with the biased variance": largest(trained),
        "momentum=None: running_mean is E[μ_B]": worst(running_mean, mean, mean.abs() + variance.sqrt()),
        "momentum=None: running_var is m/(m−1)·E[σ²_B]": worst(running_var, variance, variance),
        "eval output is γ(y−E[μ_B])/√(m/(m−1)·E[σ²_B]+ε) + β": worst(out, slope * (y - mean) + beta, size),
        "eval output is the affine map of Alg. 2": worst(out, slope * y + (beta - slope * mean), size),
    }


def _exponential(rng: torch.Generator, m: int) -> dict[str, float]:
    """Return the errors of running statistics with a momentum, from their start at 0 and 1."""
    batches = _batches(rng, case(rng, m).y)
    layer = nn.BatchNorm1d(batches[0].shape[1], momentum=MOMENTUM, dtype=torch.float64)
    for y in batches:
        layer(y)
    # Unrolled: the k-th of n batches has weight momentum·(1−momentum)^(n−k), the start (1−momentum)^n.
    weight = MOMENTUM * (1 - MOMENTUM) ** torch.arange(BATCHES - 1, -1, -1, dtype=torch.float64)
    means, variances = (torch.stack(part) for part in zip(*map(moments, batches), strict=True))
    mean = weight @ means
    variance = (1 - MOMENTUM) ** BATCHES + weight @ variances * m / (m - 1)
    return {
        "momentum: running_mean": worst(_buffers(layer)[0], mean, weight @ means.abs()),
        "momentum: running_var, unbiased": worst(_buffers(layer)[1], variance, variance),
    }


def _batches(rng: torch.Generator, y: Tensor) -> list[Tensor]:
    mean, variance = moments(y)
    batches = [y]
    for _ in range(BATCHES - 1):
        noise = standardized(normal(rng, *y.shape), 0.0)
        move, stretch = normal(rng, y.shape[1]), uniform(rng, 0.5, 2, y.shape[1])
        batches.append(mean + variance.sqrt() * (move + stretch * noise))
    return batches


def _buffers(layer: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def _enumerate(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean biased and unbiased batch variance over the population's, by batch size."""
    population = (values - values.mean()).square().mean()
    biased, unbiased = [], []
    for m in ENUMERATED:
        y = torch.cartesian_prod(*[values] * m).T  # (m, 3^m): each feature is one possible batch
        layer = nn.BatchNorm1d(y.shape[1], momentum=1.0, dtype=torch.float64)
        layer(y)
        biased.append(moments(y)[1].mean() / population)
        unbiased.append(_buffers(layer)[1].mean() / population)
    return torch.stack(biased), torch.stack(unbiased)


def _table(biased: Tensor, unbiased: Tensor) -> Table:
    columns = ("m", "batches", "(m−1)/m", "mean of σ²_B / σ²", "mean of running_var / σ²")
    means = zip(ENUMERATED, points(biased), points(unbiased), strict=True)
    rows = tuple((m, POPULATION**m, (m - 1) / m, low, right) for m, low, right in means)
    return Table("Mean batch variance over all possible batches", columns, rows)


def _figure(biased: Tensor, unbiased: Tensor) -> Figure:
    m = tuple(float(size) for size in ENUMERATED)
    curves = (
        Curve("(m−1)/m", "none", m, tuple((size - 1) / size for size in m)),
        Curve("biased σ²_B", "none", m, points(biased), mode="markers"),
        Curve("unbiased, as in running_var", "batch", m, points(unbiased), mode="lines+markers"),
    )
    return Figure(
        id="inference-bias",
        title="Why eval mode needs m/(m−1)",
        caption=say(
            "Mean of the batch variance over all possible batches drawn from a population of {count} values, "
            "divided by the population's variance. All batches are enumerated, so there are no bands.",
            count=POPULATION,
        ),
        alt="The biased variance rises from one half at m = 2 to seven eighths at m = 8 along (m−1)/m; the "
        "unbiased one is 1 at every m.",
        panels=(Panel("Mean batch variance", Axis("batch size m"), Axis("share of σ²"), curves),),
    )
