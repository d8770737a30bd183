"""BN305: evaluation that looks at the whole batch."""

from typing import Self

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.doctor.cases import of
from tests.doctor.trained import healthy
from xhat import diagnose
from xhat.doctor.finding import Severity
from xhat.norms import batch_norms


class Stuck(nn.Module):
    """Its train keeps one norm in training mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.name = list(batch_norms(model))[1]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.inner.get_submodule(self.name).train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


class Centred(Stuck):
    """Takes the batch's mean off the outputs."""

    def train(self, mode: bool = True) -> Self:
        return nn.Module.train(self, mode)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out - out.mean(0)


@pytest.mark.parametrize("name", ["vgg", "resnet", "mlp"])
@pytest.mark.parametrize("training", [True, False])
def test_a_norm_stuck_in_training_mode_is_found_and_nothing_else(name, training):
    model, given = healthy(name)
    stuck = Stuck(model).train(training)
    (finding,) = diagnose(stuck, given).at_least("warning")
    assert (finding.code, finding.severity) == ("BN305", Severity.error)
    assert finding.module == f"inner.{stuck.name}"
    assert finding.evidence["training"] == [f"inner.{stuck.name}"]


def test_the_number_is_that_of_half_batches():
    model, given = healthy("mlp")
    name = list(batch_norms(model))[1]
    model.get_submodule(name).train()
    (finding,) = of(diagnose(model, given), "BN305")
    x = given[0][0]
    with torch.no_grad():
        whole, parts = model(x), torch.cat([model(part) for part in x.chunk(2)])
    expected = float((whole - parts).square().mean().sqrt() / whole.var(0).mean().sqrt())
    assert finding.evidence["relative"] == pytest.approx(expected, rel=1e-3)


def test_a_norm_without_statistics_is_named():
    model, given = healthy("mlp")
    name = list(batch_norms(model))[1]
    norm = nn.BatchNorm1d(32, track_running_stats=False)
    norm.load_state_dict(
        {
            key: value
            for key, value in batch_norms(model)[name].state_dict().items()
            if key in ("weight", "bias")
        }
    )
    model.set_submodule(name, norm.eval())
    (finding,) = diagnose(model, given).at_least("warning")
    assert (finding.code, finding.module) == ("BN305", name)
    assert finding.evidence["untracked"] == [name]


def test_code_that_looks_at_the_batch_is_found_without_a_name():
    model, given = healthy("mlp")
    (finding,) = diagnose(Centred(model).eval(), given).at_least("warning")
    assert (finding.code, finding.module) == ("BN305", "")
    assert "code that looks at the whole batch" in finding.message


class Noisy(Centred):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out + 0.05 * torch.randn_like(out)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
def test_rounding_is_no_dependence(precision):
    model, given = healthy("resnet")
    given = [(x.to(precision), y) for x, y in given[:2]]
    assert of(diagnose(model.to(precision), given), "BN305") == ()


def test_random_evaluation_is_no_dependence():
    model, given = healthy("mlp")
    assert of(diagnose(Noisy(model).eval(), given), "BN305") == ()
    assert F.relu(torch.zeros(1)) == 0
