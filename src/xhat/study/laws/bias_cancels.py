"""Law: a bias before BN changes nothing in train mode, and its gradient is 0.

BN(Wu + b) = BN(Wu), since the batch mean moves by b too. In eval mode the output moves by γb/√(v+ε) with
v = running_var, until running_mean has taken b in: after n passes with momentum α, γb(1−α)ⁿ/√(v+ε) is left.
Source: lecture notes, "bias"; [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    normal,
    points,
    uniform,
    worst,
)
from xhat.study.result import Axis, Curve, Figure, LawResult, Panel, Table, law_check

MOMENTUM = 0.1
PASSES = 200


@dataclass(frozen=True)
class _Eval:
    """The change that b makes to eval outputs, as a share of what it makes when running_mean lacks it."""

    share: Tensor  # (PASSES + 1,), measured for the feature with the largest bias
    predicted: Tensor  # (PASSES + 1,), (1 − momentum)ⁿ
    error: float  # worst over features and passes
    absorbed: float  # share left once b is added to running_mean by hand


def check(seed: int = 0) -> LawResult:
    """Add random biases before BN, in train mode and in eval mode."""
    rng = generator(seed)
    outputs, gradients = [], []
    for m in SIZES:
        for _ in range(4):
            output, gradient = _train_mode(rng, m)
            outputs.append(output)
            gradients.append(gradient)
    evaluated = _eval_mode(rng)
    rows = (
        ("train mode", largest(outputs)),
        ("eval mode, bias just added", float(evaluated.share[0])),
        (say("eval mode, after {passes} passes in train mode", passes=PASSES), float(evaluated.share[-1])),
        ("eval mode, bias added to running_mean by hand", evaluated.absorbed),
    )
    return LawResult(
        id="bias-cancels",
        title="A bias before BN cancels",
        statement="In train mode BN(Wu + b) = BN(Wu) and ∂L/∂b = 0, because subtracting the batch mean "
        "removes b. In eval mode b moves the output by γb/√(running_var+ε) until running_mean has taken b "
        "in; after n passes in train mode (1 − momentum)ⁿ of that is left.",
        source='Lecture notes, "set the bias to 0"; [IS] arXiv 1502.03167, section 3.2',
        checks=(
            law_check("train mode: output unchanged by b", largest(outputs), TOLERANCE),
            law_check("train mode: ∂L/∂b = 0", largest(gradients), TOLERANCE),
            law_check("eval mode: (1 − momentum)ⁿ of the change is left", evaluated.error, TOLERANCE),
            law_check("eval mode: b in running_mean restores the output", evaluated.absorbed, TOLERANCE),
        ),
        figures=(_figure(evaluated),),
        tables=(Table("Change of the output by b, relative to γb/√(σ²+ε)", ("where", "change"), rows),),
        note="Dropping the bias of a layer before BN saves its parameters. In a trained network subtract the "
        "bias from running_mean at the same time, or eval outputs move.",
    )


def _train_mode(rng: torch.Generator, m: int) -> tuple[float, float]:
    drawn = case(rng, m)
    sigma = (moments(drawn.y)[1] + TORCH_EPS).sqrt()
    b = (sigma * uniform(rng, 1, 10, 8) * normal(rng, 8).sign()).requires_grad_()
    without = batch_norm(drawn.y, drawn.gamma, drawn.beta, eps=TORCH_EPS)
    z = batch_norm(drawn.y + b, drawn.gamma, drawn.beta, eps=TORCH_EPS)
    leaf = z.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(rng, leaf)(leaf), leaf)
    (d_bias,) = torch.autograd.grad(z, b, g)
    # ∂L/∂b is a sum over the batch that cancels: held against the size of what is summed.
    summed = (drawn.gamma / sigma).abs() * g.abs().sum(0)
    shift = (drawn.gamma * b.detach() / sigma).abs()
    return worst(z.detach(), without, shift), worst(d_bias, torch.zeros_like(d_bias), summed)


def _eval_mode(rng: torch.Generator) -> _Eval:
    W, b, probe = normal(rng, 8, 6), uniform(rng, 1, 10, 8), normal(rng, 32, 6)
    plain, biased = (nn.BatchNorm1d(8, momentum=MOMENTUM, dtype=torch.float64) for _ in range(2))
    shares = []
    for n in range(PASSES + 1):
        if n:
            u = normal(rng, 32, 6)
            plain.train()(F.linear(u, W))
            biased.train()(F.linear(u, W, b))
        shares.append(_change(plain, biased, W, b, probe))
    measured = torch.stack(shares)  # (PASSES + 1, 32, 8)
    predicted = (1 - MOMENTUM) ** torch.arange(PASSES + 1, dtype=torch.float64)
    assert plain.running_mean is not None
    biased.running_mean = plain.running_mean + b
    return _Eval(
        share=measured[:, 0, b.argmax()],
        predicted=predicted,
        error=worst(measured, predicted[:, None, None]),
        absorbed=float(_change(plain, biased, W, b, probe).abs().max()),
    )


@torch.no_grad()
def _change(plain: nn.BatchNorm1d, biased: nn.BatchNorm1d, W: Tensor, b: Tensor, probe: Tensor) -> Tensor:
    assert plain.running_var is not None
    moved = biased.eval()(F.linear(probe, W, b)) - plain.eval()(F.linear(probe, W))
    return torch.as_tensor(moved * (plain.running_var + plain.eps).sqrt() / b)


def _figure(evaluated: _Eval) -> Figure:
    passes = tuple(float(n) for n in range(PASSES + 1))
    shown = slice(None, None, 10)
    curves = (
        Curve("(1 − momentum)ⁿ", "none", passes, points(evaluated.predicted)),
        Curve("measured", "batch", passes[shown], points(evaluated.share[shown].abs()), mode="markers"),
    )
    axes = Axis("passes in train mode"), Axis("share of γb/√(v+ε)", log=True)
    return Figure(
        id="bias-cancels-eval",
        title="In eval mode a new bias fades as running_mean takes it in",
        caption=say(
            "Change of the eval output after a bias is added, as a share of its first value, over passes in "
            "train mode with momentum {momentum:g}. Points are measured, the line is the formula. In train "
            "mode the change is 0 at every pass.",
            momentum=MOMENTUM,
        ),
        alt=say(
            "The measured points follow a straight line on a logarithmic axis, from 1 down to below 1e-8 "
            "after {passes} passes.",
            passes=PASSES,
        ),
        panels=(Panel("Share left", *axes, curves),),
    )
