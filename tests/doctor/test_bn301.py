"""BN301: modes that differ with equal statistics."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.doctor.cases import of
from tests.doctor.trained import healthy
from xhat import diagnose
from xhat.norms import batch_norms


class Wrapped(nn.Module):
    """A trained network with a line of code before it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(self.line(x))
        return out

    def line(self, x: Tensor) -> Tensor:
        return x


class Scaled(Wrapped):
    def line(self, x: Tensor) -> Tensor:
        return x if self.training else x * 0.5


class FunctionalDropout(Wrapped):
    def line(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, self.training)


class WantsTargets(Wrapped):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if self.training and y is None:
            raise ValueError("in training mode, targets should be passed")
        out: Tensor = self.inner(x)
        return out


@pytest.mark.parametrize("name", ["vgg", "mlp"])
def test_code_that_asks_for_the_mode_is_found(name):
    """Also where a norm behind it makes both modes equal as soon as it normalises by the batch."""
    model, given = healthy(name)
    model = Scaled(model)
    found = diagnose(model, given)
    (finding,) = found.at_least("warning")
    assert finding.code == "BN301"
    # What the line does by itself, computed plainly.
    x = given[0][0]
    with torch.no_grad():
        model.eval()
        one, other = model.inner(x), model(x)
    expected = float((one - other).square().mean().sqrt() / one.var(0).mean().sqrt())
    assert finding.evidence["relative"] == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("kind", [Wrapped, FunctionalDropout, WantsTargets])
def test_what_is_noise_or_cannot_be_compared_is_none(kind):
    model, given = healthy("mlp")
    assert of(diagnose(kind(model).eval(), given, forward=lambda made, batch: made(batch[0])), "BN301") == ()


class HalfVariance(nn.BatchNorm1d):
    """A norm whose evaluation divides by something else than its training."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        return F.batch_norm(
            input, self.running_mean, self.running_var / 4, self.weight, self.bias, eps=self.eps
        )


def test_a_norm_whose_modes_disagree_is_found():
    model, given = healthy("mlp")
    for name, norm in batch_norms(model).items():
        other = HalfVariance(norm.num_features)
        other.load_state_dict(norm.state_dict())
        model.set_submodule(name, other)
    found = of(diagnose(model.eval(), given), "BN301")
    assert len(found) == 1
    assert "noise of batches" in found[0].message
