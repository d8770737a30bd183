"""Law: dγ = ⟨g, ŷ⟩ and dβ = Σg, so any gradient method trains γ and β as it trains weights.

With g = ∂L/∂z and z = γŷ + β, sums and means over the batch:
dy = γ/√(σ²+ε) · (g − mean(g) − ŷ·mean(g·ŷ)).
Source: lecture notes, section 3.2; [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, optim

from xhat.lang import say
from xhat.study.laws._cases import (
    SIZES,
    TOLERANCE,
    TORCH_EPS,
    batch_norm,
    case,
    generator,
    largest,
    loss,
    moments,
    points,
    standardized,
    worst,
)
from xhat.study.result import Axis, Curve, Figure, LawCheck, LawResult, Panel, law_check

OPTIMISERS: dict[str, Callable[[list[Tensor]], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.8),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1),
    # Adadelta's first steps are about √eps long; its default of 1e-6 takes far more of them.
    "Adadelta": lambda p: optim.Adadelta(p, lr=1.0, eps=1e-3),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
}
STEPS = 120
MEAN, STD = 2.0, 3.0  # asked for; γ = 1, β = 0 start at 0 and 1
# Not rounding: a method with a finite step has an end error. 1e-4 of the first loss is 1% of the way.
TRAINED = 1e-4
FLOOR = 1e-16  # the smallest loss drawn, so that an exact 0 has a place on the log axis


def check(seed: int = 0) -> LawResult:
    """Compare torch's gradients with the formulas, then train γ and β with five methods."""
    rng = generator(seed)
    d_gamma, d_beta, d_y = [], [], []
    for m in SIZES:
        for _ in range(4):
            errors = _gradient_errors(rng, m)
            d_gamma.append(errors[0])
            d_beta.append(errors[1])
            d_y.append(errors[2])
    y = case(rng, 64, features=4, decades=1.0).y
    losses = {name: _train(y, make) for name, make in OPTIMISERS.items()}
    trained: list[LawCheck] = [
        law_check(
            say("{method} reaches the moments: last loss / first loss", method=name),
            float(path[-1] / path[0]),
            TRAINED,
        )
        for name, path in losses.items()
    ]
    return LawResult(
        id="gradients",
        title="Gradients of γ, β and the input",
        statement="With g = ∂L/∂z and z = γŷ + β: dγ = ⟨g, ŷ⟩, dβ = Σg and "
        "dy = γ/√(σ²+ε)·(g − mean(g) − ŷ·mean(g·ŷ)). So any gradient method trains γ and β.",
        source="Lecture notes, section 3.2; [IS] arXiv 1502.03167, section 3",
        checks=(
            law_check("dγ = ⟨g, ŷ⟩", largest(d_gamma), TOLERANCE),
            law_check("dβ = Σg", largest(d_beta), TOLERANCE),
            law_check("dy = γ/√(σ²+ε)·(g − mean(g) − ŷ·mean(g·ŷ))", largest(d_y), TOLERANCE),
            *trained,
        ),
        figures=(_figure(losses),),
        note=say(
            "Training starts at γ = 1, β = 0 and asks for mean {mean:g} and standard deviation {std:g}, by the "
            "loss (mean − {mean:g})² + (std − {std:g})² summed over four features. The learning rate falls "
            "linearly to 0, because a method with steps of fixed length would circle around the target.",
            mean=MEAN,
            std=STD,
        ),
    )


def _gradient_errors(rng: torch.Generator, m: int) -> tuple[float, float, float]:
    drawn = case(rng, m)
    y, gamma, beta = (t.requires_grad_() for t in (drawn.y, drawn.gamma, drawn.beta))
    z = batch_norm(y, gamma, beta, eps=TORCH_EPS)
    leaf = z.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(rng, leaf)(leaf), leaf)
    dy, d_gamma, d_beta = torch.autograd.grad(z, (y, gamma, beta), g)
    with torch.no_grad():
        normed, slope = standardized(y, TORCH_EPS), gamma / (moments(y)[1] + TORCH_EPS).sqrt()
        expected = slope * (g - g.mean(0) - normed * (g * normed).mean(0))
        # Each sum may cancel, so its error is held against the sum of the absolute terms.
        return (
            worst(d_gamma, (g * normed).sum(0), (g * normed).abs().sum(0)),
            worst(d_beta, g.sum(0), g.abs().sum(0)),
            worst(dy, expected, slope.abs() * g.abs().amax(0)),
        )


def _train(y: Tensor, make: Callable[[list[Tensor]], optim.Optimizer]) -> Tensor:
    gamma, beta = torch.ones_like(y[0]).requires_grad_(), torch.zeros_like(y[0]).requires_grad_()
    optimiser = make([gamma, beta])
    schedule = optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    path = []
    for _ in range(STEPS):
        mean, variance = moments(batch_norm(y, gamma, beta, eps=TORCH_EPS))
        value = ((mean - MEAN).square() + (variance.sqrt() - STD).square()).sum()
        path.append(value.detach())
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return torch.stack(path)


def _figure(losses: dict[str, Tensor]) -> Figure:
    steps = tuple(float(step) for step in range(STEPS))
    curves = tuple(Curve(name, name, steps, points(path.clamp(min=FLOOR))) for name, path in losses.items())
    return Figure(
        id="gradients-optimisers",
        title="Five gradient methods train γ and β",
        caption=say(
            "Distance of the batch's mean and standard deviation from those asked for, over the steps of each "
            "method; lower is closer. Values below {floor:g} are drawn there. The methods use different "
            "learning rates, so their order means nothing.",
            floor=FLOOR,
        ),
        alt=say(
            "Five curves on a logarithmic axis fall from about 32 by at least four powers of ten in {steps} "
            "steps: SGD, momentum, RMSprop, Adadelta and Adam.",
            steps=STEPS,
        ),
        panels=(
            Panel(
                "Loss",
                Axis("step"),
                Axis(say("(mean − {mean:g})² + (std − {std:g})²", mean=MEAN, std=STD), log=True),
                curves,
            ),
        ),
    )
