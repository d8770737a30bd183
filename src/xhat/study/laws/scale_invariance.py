"""Law: BN does not see the scale of the weights before it.

For a > 0, exact at ε = 0, with one factor for all weights or one per output unit:
BN(aWu) = BN(Wu), ∂L/∂u is unchanged, ∂L/∂(aW) = (1/a)·∂L/∂W and ⟨w, ∇L⟩ = 0 for each unit's weights w, so
that an SGD step w' = w − η∇L gives ‖w'‖² = ‖w‖² + η²‖∇L‖². At ε > 0 the output of BN(aWu) is smaller than at
ε = 0 by the factor (1+r)^(−1/2), r = ε/(a²σ²): a relative error of 1 − (1+r)^(−1/2) = r/2 − 3r²/8 + …
Source: lecture notes, "scale of the weights"; [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.3.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from xhat.lang import say
from xhat.study.laws._cases import (
    NOTES_EPS,
    TOLERANCE,
    TORCH_EPS,
    ZERO_EPS,
    Loss,
    batch_norm,
    generator,
    largest,
    loss,
    moments,
    normal,
    points,
    uniform,
    worst,
)
from xhat.study.result import Axis, Curve, Figure, LawCheck, LawResult, Panel, law_check

EPSILONS = {"ε = 1e-8 (notes)": NOTES_EPS, "ε = 1e-5 (PyTorch)": TORCH_EPS}
EXACT = (
    "BN(aWu) = BN(Wu)",
    "∂L/∂u unchanged",
    "∂L/∂(aW) = (1/a)·∂L/∂W",
    "⟨w, ∇L⟩ = 0",
    "‖w'‖² = ‖w‖² + η²‖∇L‖²",
)
# The series 1 − (1+r)^(−1/2) = r/2 − 3r²/8 + … alternates, so r/2 is off by less than 3r/4 of itself.
SMALL = 1e-2  # the largest r at which the leading order is checked


def check(seed: int = 0) -> LawResult:
    """Rescale random weights before BN, at ε = 0 and at the two usual ε."""
    rng = generator(seed)
    one, per_unit = [], []
    for m in (8, 64):
        for _ in range(6):
            one.append(_errors(rng, m, 10 ** uniform(rng, -4, 4, 1, 1)))
            per_unit.append(_errors(rng, m, 10 ** uniform(rng, -4, 4, 4, 1)))
    checks = [
        law_check(
            say("{law}, {factor}", law=law, factor=factor), largest([error[i] for error in errors]), TOLERANCE
        )
        for factor, errors in (("one factor", one), ("a factor per unit", per_unit))
        for i, law in enumerate(EXACT)
    ]
    figure, grown = _growth(rng)
    return LawResult(
        id="scale-invariance",
        title="BN does not see the scale of the weights",
        statement="At ε = 0 and for a > 0, also one per output unit: BN(aWu) = BN(Wu), ∂L/∂u is unchanged, "
        "∂L/∂(aW) = (1/a)·∂L/∂W, ⟨w, ∇L⟩ = 0, and so an SGD step gives ‖w'‖² = ‖w‖² + η²‖∇L‖². At ε > 0 the "
        "relative error of the output is 1 − (1+r)^(−1/2) with r = ε/(a²σ²), about r/2 while r is small.",
        source='Lecture notes, "scale of the weights"; [IS] arXiv 1502.03167, section 3.3',
        checks=(*checks, *grown),
        figures=(figure,),
        note="The error at ε > 0: aWu has variance a²σ², so BN divides it by √(a²σ²+ε) where aσ would be "
        "exact. The ratio of the two is (1+r)^(−1/2), the same for every sample. Its series gives the "
        "error r/2 − 3r²/8 + …: the factor of ε/(a²σ²) is one half. PyTorch refuses ε = 0 in train mode, "
        "so the exact parts run at ε = 1e-300, which is lost when added to σ².",
    )


def _errors(rng: torch.Generator, m: int, a: Tensor) -> tuple[float, ...]:
    u, W = normal(rng, m, 6), normal(rng, 4, 6)
    gamma, beta, objective = uniform(rng, 0.5, 2, 4), normal(rng, 4), loss(rng, F.linear(u, W))
    z, d_u, d_W = _run(u, W, gamma, beta, objective)
    z_a, d_u_a, d_W_a = _run(u, a * W, gamma, beta, objective)
    size = d_W.square().sum(1)  # ‖∇L‖² by unit
    norm = W.square().sum(1)
    weight = W.clone().requires_grad_()
    weight.grad = d_W
    # A step as long as the weights themselves, so that η²‖∇L‖² counts.
    eta = float((norm.sum() / size.sum()).sqrt())
    torch.optim.SGD([weight], lr=eta).step()
    after = norm + eta**2 * size
    return (
        worst(z_a, z),
        worst(d_u_a, d_u, d_u.abs().max()),
        worst(d_W_a * a, d_W, d_W.abs().amax(1, keepdim=True)),
        worst((W * d_W).sum(1), torch.zeros_like(norm), (norm * size).sqrt()),
        worst(weight.detach().square().sum(1), after, after),
    )


def _run(u: Tensor, W: Tensor, gamma: Tensor, beta: Tensor, objective: Loss) -> tuple[Tensor, Tensor, Tensor]:
    u, W = u.clone().requires_grad_(), W.clone().requires_grad_()
    z = batch_norm(F.linear(u, W), gamma, beta, eps=ZERO_EPS)
    d_u, d_W = torch.autograd.grad(objective(z), (u, W))
    return z.detach(), d_u, d_W


def _growth(rng: torch.Generator) -> tuple[Figure, list[LawCheck]]:
    a = torch.logspace(-4, 2, 49, dtype=torch.float64)
    y = F.linear(normal(rng, 64, 6), normal(rng, 1, 6))
    exact = batch_norm(y, eps=ZERO_EPS)
    variance = moments(y)[1]
    checks: list[LawCheck] = []
    curves: list[Curve] = []
    for name, eps in EPSILONS.items():
        r = eps / (a**2 * variance)
        out = batch_norm(y * a, eps=eps)  # one feature per factor
        measured = (out - exact).norm(dim=0) / exact.norm()
        # 1 − (1+r)^(−1/2), written so that nothing cancels at small r.
        predicted = -torch.expm1(-0.5 * torch.log1p(r))
        # Rounding is relative to the output, not to its error: below r = 1e-8 their ratio loses its digits.
        leading = (r > 1e-8) & (r < SMALL)
        checks += [
            law_check(
                say("error is 1 − (1+r)^(−1/2), {eps}", eps=name), worst(measured, predicted), TOLERANCE
            ),
            law_check(
                say("error is r/2 for 1e-8 < r < {end:g}, {eps}", end=SMALL, eps=name),
                worst(2 * measured[leading], r[leading], r[leading]),
                0.75 * SMALL,
            ),
        ]
        curves += [
            Curve(say("measured, {eps}", eps=name), name, points(a), points(measured), mode="markers"),
            Curve(say("1 − (1+r)^(−1/2), {eps}", eps=name), name, points(a), points(predicted)),
            Curve(say("r/2, {eps}", eps=name), name, points(a[r < 2]), points(r[r < 2] / 2), dashed=True),
        ]
    axes = Axis("factor a of the weights", log=True), Axis("relative error of BN(aWu)", log=True)
    figure = Figure(
        id="scale-invariance-error",
        title="How small weights may be before ε shows",
        caption="Relative error of BN(aWu) against its value at ε = 0, over a. Points are measured, "
        "solid lines are 1 − (1+r)^(−1/2) with r = ε/(a²σ²), dashed lines its leading order r/2. The "
        "error is 1 where ε swamps the variance: the output is then 0.",
        alt="On logarithmic axes two curves fall with slope −2 as a grows. The one for ε = 1e-5 lies a "
        "factor 1000 above that for 1e-8 and flattens towards 1 at small a. The measured points lie on "
        "the curves.",
        panels=(Panel("Error over a", *axes, tuple(curves)),),
    )
    return figure, checks
