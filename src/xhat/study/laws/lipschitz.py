"""Law: the gradient norm before BN, [S] Theorem 4.1 as an identity.

With z = γŷ + β, g = ∂L/∂z, a batch of m and ε = 0, for each feature:
‖∂L/∂y‖² = γ²/σ²·(‖g‖² − ⟨1,g⟩²/m − ⟨g,ŷ⟩²/m).
BN takes the parts along 1 and ŷ out of g: both have norm √m, hence 1/m on both terms. The text of arXiv v3
prints 1/√m on the last term, its proof gives 1/m. The printed form is also too small to be a bound.
Source: [S] Santurkar, Tsipras, Ilyas, Madry 2018, arXiv 1805.11604, Theorem 4.1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xhat.lang import say
from xhat.study.laws._cases import (
    TOLERANCE,
    ZERO_EPS,
    batch_norm,
    case,
    generator,
    largest,
    loss,
    moments,
    standardized,
)
from xhat.study.result import Axis, Curve, Figure, LawResult, Panel, Table, law_check

BATCH_SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
CASES = 40  # features, each a case of its own, by batch size
# The forms agree where ⟨g,ŷ⟩ = 0: a case may come within rounding of that by chance, never 1 in 20.
CHANCE = 0.05
FLOOR = 1e-17  # the smallest error drawn, so that an exact 0 has a place on the log axis


@dataclass(frozen=True)
class _Errors:
    """Errors of both forms for one batch size, relative to γ²/σ²·‖g‖²; each of shape (CASES,)."""

    m: int
    corrected: Tensor  # |left − right| with 1/m
    printed: Tensor  # |left − right| with 1/√m
    excess: Tensor  # left − right with 1/√m: positive where the printed form is no bound


def check(seed: int = 0) -> LawResult:
    """Hold both forms against torch's gradients on the same random cases."""
    rng = generator(seed)
    errors = [_errors(rng, m) for m in BATCH_SIZES]
    failing = torch.stack([e.excess > TOLERANCE for e in errors]).double().mean(1)
    rows = tuple(
        (e.m, CASES, float(e.corrected.median()), float(e.printed.median()), float(share))
        for e, share in zip(errors, failing, strict=True)
    )
    columns = ("m", "cases", "1/m: median error", "1/√m: median error", "1/√m: share of cases failing")
    return LawResult(
        id="lipschitz",
        title="The gradient norm before BN",
        statement="At ε = 0, with g = ∂L/∂z and z = γŷ + β: "
        "‖∂L/∂y‖² = γ²/σ²·(‖g‖² − ⟨1,g⟩²/m − ⟨g,ŷ⟩²/m). The last term has 1/m, not the printed 1/√m.",
        source="[S] arXiv 1805.11604, Theorem 4.1 (v3 prints 1/√m, its proof gives 1/m)",
        checks=(
            law_check("identity with 1/m", largest([float(e.corrected.max()) for e in errors]), TOLERANCE),
            law_check("printed form (1/√m): share of cases where it holds", float(1 - failing.min()), CHANCE),
        ),
        figures=(_figure(errors),),
        tables=(Table("Both forms on the same random cases", columns, rows),),
        note="Errors are relative to γ²/σ²·‖g‖². The paper states the theorem as an upper bound; the "
        "printed form fails a case if ‖∂L/∂y‖² lies above it. At m = 2 the printed right side is even "
        "negative, because ŷ = ±1 leaves nothing of g. The law says that BN removes two directions of g; "
        "whether γ/σ then makes the gradient smaller depends on γ and σ.",
    )


def _errors(rng: torch.Generator, m: int) -> _Errors:
    drawn = case(rng, m, CASES)
    y = drawn.y.requires_grad_()
    z = batch_norm(y, drawn.gamma, drawn.beta, eps=ZERO_EPS)
    leaf = z.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(rng, leaf)(leaf), leaf)
    (d_y,) = torch.autograd.grad(z, y, g)
    y = y.detach()
    scale = drawn.gamma.square() / moments(y)[1]
    left = d_y.square().sum(0)
    whole = scale * g.square().sum(0)
    corrected, printed = (
        (left - scale * _bracket(g, standardized(y, 0.0), factor)) / whole for factor in (1 / m, m**-0.5)
    )
    return _Errors(m, corrected.abs(), printed.abs(), printed)


def _bracket(g: Tensor, y_hat: Tensor, factor: float) -> Tensor:
    m = len(g)
    return g.square().sum(0) - g.sum(0).square() / m - factor * (g * y_hat).sum(0).square()


def _figure(errors: list[_Errors]) -> Figure:
    m = tuple(float(e.m) for e in errors)
    forms = {
        ("1/m (proof)", "batch"): [e.corrected for e in errors],
        ("1/√m (printed)", "none"): [e.printed for e in errors],
    }
    curves = []
    for (name, arm), values in forms.items():
        low, middle, high = (
            tuple(max(float(v.quantile(q)), FLOOR) for v in values) for q in (0.05, 0.5, 0.95)
        )
        curves.append(Curve(name, arm, m, middle, low, high, mode="lines+markers"))
    axes = Axis("batch size m", log=True), Axis("relative error", log=True)
    return Figure(
        id="lipschitz-forms",
        title="The last term of Theorem 4.1 has 1/m",
        caption=say(
            "Median error of the two forms over {cases} random cases by batch size; bands hold 90% of the "
            "cases. The form with 1/m is exact up to rounding; errors below {floor:g} are drawn there.",
            cases=CASES,
            floor=FLOOR,
        ),
        alt="Two bands far apart on a logarithmic axis: the form with 1/m near 1e-16 at every batch "
        "size, the printed form many powers of ten above it.",
        panels=(Panel("Relative error over m", *axes, tuple(curves)),),
    )
