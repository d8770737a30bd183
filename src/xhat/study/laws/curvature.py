"""Law: the curvature along the gradient before BN, [S] Theorem 4.2, first line, as an identity.

For one feature: y in R^m is the input of BN, z = γŷ + β its output, L the loss as a function of z and
L̂(y) = L(z(y)) the same loss as a function of y. With g = ∂L/∂z, H = ∂²L/∂z², ∇L̂ = ∂L̂/∂y, Ĥ = ∂²L̂/∂y²
and ε = 0:
(∇L̂)ᵀĤ(∇L̂) = γ²/σ²·(∇L̂)ᵀH(∇L̂) − γ/(mσ²)·⟨g,ŷ⟩·‖∇L̂‖².
It holds because ∇L̂ is orthogonal to 1 and to ŷ: along such a v, ŷ(y+tv) = (y−μ+tv)/√(σ²+t²‖v‖²/m).
Source: [S] Santurkar, Tsipras, Ilyas, Madry 2018, arXiv 1805.11604, Theorem 4.2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import hessian

from xhat.study.laws._cases import (
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

BATCH_SIZES = (3, 4, 8, 16)  # at m = 2 ŷ is always ±1, so that ∇L̂ = 0
CASES = 8
# Second derivatives through BN divide by σ² and sum m² terms: one digit more than a first derivative.
TOLERANCE = 1e-11


@dataclass(frozen=True)
class _Sides:
    """Both sides of the identity for one case, divided by γ²/σ²·‖∇L̂‖²: curvatures in units of H."""

    m: int
    left: float  # from Ĥ
    first: float  # the term with H
    second: float  # the term with ⟨g,ŷ⟩
    size: float  # the largest that either term can be


def check(seed: int = 0) -> LawResult:
    """Compare autograd's Hessians before and after BN on random losses."""
    rng = generator(seed)
    cases = [_sides(rng, m) for m in BATCH_SIZES for _ in range(CASES)]
    errors = [abs(c.left - c.first - c.second) / c.size for c in cases]
    rows = tuple((c.m, c.left, c.first, c.second) for c in cases[::CASES])
    return LawResult(
        id="curvature",
        title="The curvature along the gradient before BN",
        statement="At ε = 0, with L̂(y) = L(z(y)), g = ∂L/∂z, H = ∂²L/∂z² and Ĥ = ∂²L̂/∂y²: "
        "(∇L̂)ᵀĤ(∇L̂) = γ²/σ²·(∇L̂)ᵀH(∇L̂) − γ/(mσ²)·⟨g,ŷ⟩·‖∇L̂‖².",
        source="[S] arXiv 1805.11604, Theorem 4.2, first line",
        checks=(law_check("identity on random losses that are not quadratic", largest(errors), TOLERANCE),),
        figures=(_figure(cases),),
        tables=(Table("One case by batch size", ("m", "left side", "term with H", "term with ⟨g,ŷ⟩"), rows),),
        note="All values are divided by γ²/σ²·‖∇L̂‖². The second term lowers the curvature where γ⟨g,ŷ⟩ "
        "> 0 and raises it where γ⟨g,ŷ⟩ < 0: the law alone does not say that BN makes a loss smoother.",
    )


def _sides(rng: torch.Generator, m: int) -> _Sides:
    drawn = case(rng, m, 1)
    objective = loss(rng, drawn.y)
    gamma = float(drawn.gamma)

    def before(y: Tensor) -> Tensor:
        return objective(batch_norm(y[:, None], drawn.gamma, drawn.beta, eps=ZERO_EPS))

    def after(z: Tensor) -> Tensor:
        return objective(z[:, None])

    y = drawn.y[:, 0]
    y_hat, sigma = standardized(y, 0.0), float(moments(y)[1].sqrt())
    z = gamma * y_hat + drawn.beta
    H_hat, H = hessian(before, y), hessian(after, z)  # type: ignore[no-untyped-call]
    gradient, g = _gradient(before, y), _gradient(after, z)
    v = gradient / gradient.norm()
    scale = gamma**2 / sigma**2
    inner = float(g @ y_hat) / (m * gamma)
    return _Sides(
        m=m,
        left=float(v @ H_hat @ v) / scale,
        first=float(v @ H @ v),
        second=-inner,
        size=float(H.norm()) + float(g.norm()) / (m**0.5 * abs(gamma)),
    )


def _gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.detach().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


def _figure(cases: list[_Sides]) -> Figure:
    left = tuple(c.left for c in cases)
    ends = (min(left), max(left))
    curves = (
        Curve("equal", "line", ends, ends, dashed=True),
        Curve("whole right side", "batch", left, tuple(c.first + c.second for c in cases), mode="markers"),
        Curve("term with H alone", "none", left, tuple(c.first for c in cases), mode="markers"),
    )
    axes = Axis("left side, from Ĥ (units of H)"), Axis("right side (units of H)")
    return Figure(
        id="curvature-sides",
        title="Curvature before BN, from the Hessian after it",
        caption="One point per random case. The whole right side lies on the diagonal; the term with H "
        "alone misses it by γ/(mσ²)·⟨g,ŷ⟩·‖∇L̂‖². Curvatures are divided by γ²/σ²·‖∇L̂‖².",
        alt="A diagonal line with points of the whole right side on it, and points of the first term alone "
        "scattered away from it.",
        panels=(Panel("Both sides", *axes, curves),),
    )
