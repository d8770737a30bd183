"""One fault for every rule, planted in a trained network: found, and nothing else at warning or above."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.doctor.cases import of
from tests.doctor.test_bn301 import Scaled
from tests.doctor.test_bn305 import Stuck
from tests.doctor.test_watch import Checkpointed, accumulated, watched
from tests.doctor.trained import MAKERS, NAMES, batches, healthy, trained
from xhat import diagnose, recalibrate_
from xhat.doctor import RULES, Diagnosis, Severity
from xhat.norms import batch_norms

PLANTED: dict[str, Callable[[], Diagnosis]] = {}
# Told by two real processes in test_ranks.
RANKS = {"BN501", "BN502"}


def planted(code: str) -> Callable[[Callable[[], Diagnosis]], Callable[[], Diagnosis]]:
    def keep(plant: Callable[[], Diagnosis]) -> Callable[[], Diagnosis]:
        PLANTED[code] = plant
        return plant

    return keep


def norm_of(model: nn.Module, place: int = 2) -> Any:
    return list(batch_norms(model).values())[place]


def with_module(name: str, path: str, make: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, list[Any]]:
    """Return a trained network with one module exchanged, its statistics those of its batches."""
    model, given = healthy(name)
    model.set_submodule(path, make(model.get_submodule(path)))
    recalibrate_(model, given)
    return model.eval(), given


@planted("BN101")
def bias() -> Diagnosis:
    return diagnose(*healthy("vgg"))


@planted("BN102")
def dropout() -> Diagnosis:
    return diagnose(*with_module("mlp", "hidden.1.0", lambda layer: nn.Sequential(layer, nn.Dropout(0.3))))


@planted("BN103")
def logits() -> Diagnosis:
    return diagnose(*with_module("mlp", "output", lambda layer: nn.Sequential(layer, nn.BatchNorm1d(10))))


@planted("BN104")
def twice_in_a_row() -> Diagnosis:
    return diagnose(*with_module("mlp", "hidden.1.1", lambda bn: nn.Sequential(bn, nn.BatchNorm1d(32))))


@planted("BN105")
def shared() -> Diagnosis:
    """The norms of the first two layers become one."""
    model, given = healthy("mlp")
    model.set_submodule("hidden.1.1", model.get_submodule("hidden.0.1"))
    recalibrate_(model, given)
    return diagnose(model.eval(), given)


@planted("BN106")
def momentum() -> Diagnosis:
    model, given = healthy("vgg")
    norm_of(model).momentum = 0.99
    return diagnose(model, given)


@planted("BN107")
def eps() -> Diagnosis:
    model, given = healthy("mlp")
    with torch.no_grad():  # values so small that eps rules the scale
        layer = model.get_submodule("hidden.2.0")
        layer.weight.mul_(1e-4)  # type: ignore[operator,union-attr]
        layer.bias.mul_(1e-4)  # type: ignore[operator,union-attr]
    recalibrate_(model, given)
    return diagnose(model, given)


@planted("BN108")
def decay() -> Diagnosis:
    model, given = healthy("mlp")
    return diagnose(model, given, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4))


@planted("BN201")
def infinite() -> Diagnosis:
    model, given = healthy("vgg")
    norm_of(model).running_mean[2] = math.inf
    return diagnose(model, given)


@planted("BN202")
def negative() -> Diagnosis:
    model, given = healthy("vgg")
    norm_of(model).running_var[1] = -0.5
    return diagnose(model, given)


@planted("BN203")
def untouched() -> Diagnosis:
    model, given = healthy("vgg")
    norm_of(model).reset_running_stats()
    return diagnose(model, given)


@planted("BN204")
def half() -> Diagnosis:
    model, given = healthy("mlp")
    return diagnose(model.to(torch.bfloat16), [(x.bfloat16(), y) for x, y in given])


@planted("BN205")
def dead() -> Diagnosis:
    model, given = healthy("mlp")
    with torch.no_grad():
        norm_of(model).weight[:20] = 0.0
        norm_of(model).bias[:20] = 0.0
    recalibrate_(model, given)
    return diagnose(model, given)


@planted("BN206")
def scale() -> Diagnosis:
    """One channel whose values are tiny, and an eps that lets γ/σ blow them up."""
    model, given = healthy("mlp")
    bn, layer = norm_of(model), model.get_submodule("hidden.2.0")
    with torch.no_grad():
        bn.eps = 1e-12
        layer.weight[3] *= 1e-5  # type: ignore[operator,index]
        layer.bias[3] *= 1e-5  # type: ignore[operator,index]
    recalibrate_(model, given)
    return diagnose(model, given)


@planted("BN301")
def mode() -> Diagnosis:
    model, given = healthy("resnet")
    return diagnose(Scaled(model).eval(), given)


@planted("BN302")
def stale() -> Diagnosis:
    model, given = healthy("resnet")
    for bn in batch_norms(model).values():
        bn.running_mean.mul_(0.5)
        bn.running_var.mul_(2.0)
    return diagnose(model, given)


@planted("BN303")
def few() -> Diagnosis:
    return diagnose(trained("vgg"), batches(size=4, count=12))


@planted("BN304")
def sorted_by_class() -> Diagnosis:
    return diagnose(trained("vgg"), batches(count=8, classes=8))


@planted("BN305")
def stuck() -> Diagnosis:
    model, given = healthy("vgg")
    return diagnose(Stuck(model).eval(), given)


@planted("BN401")
def drifting() -> Diagnosis:
    model = trained("vgg")
    for bn in batch_norms(model).values():
        bn.requires_grad_(False)
    return watched(model)[1]


@planted("BN402")
def checkpointed() -> Diagnosis:
    return watched(Checkpointed(trained("mlp"), reentrant=False))[1]


@planted("BN403")
def microbatches() -> Diagnosis:
    return watched(trained("vgg"), accumulated(8))[1]


def test_every_rule_has_its_fault():
    assert set(PLANTED) | RANKS == set(RULES)


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(code):
    diagnosis = PLANTED[code]()
    assert of(diagnosis, code)
    assert {finding.code for finding in diagnosis.at_least("warning")} <= {code}
    # The worst that the table has for it, but where the plant is the milder kind.
    worst = max((finding.severity for finding in of(diagnosis, code)), key=lambda severity: severity.rank)
    assert worst.rank >= Severity.warning.rank or code in {"BN101", "BN108"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["train", "test"])
def test_healthy_networks_of_each_architecture_are_clean(name, part):
    for seed in range(2):
        found = diagnose(trained(name, seed), batches(part=part, seed=seed, count=6))
        assert found.at_least("warning") == ()


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_network_without_batch_norm_is_clean():
    model = MAKERS["mlp"]()
    for name in batch_norms(copy.deepcopy(model)):
        model.set_submodule(name, Plain())
    assert diagnose(model, batches(count=2)).findings == ()
