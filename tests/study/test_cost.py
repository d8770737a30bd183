from dataclasses import replace

import pytest

from xhat.study.claim import Subject
from xhat.study.cost import cost
from xhat.study.measures import Evaluate
from xhat.study.spec import Data, LawSpec, Member, Network, Probe, Record, TrainSpec
from xhat.study.subjects import deep_linear, mlp, resnet, vgg


def spec(subject: Subject, norm: str = "batch", members: int = 1) -> TrainSpec:
    made = tuple(Member(seed, 0.1) for seed in range(members))
    return TrainSpec(subject.network.with_norm(norm), subject.data, made, subject.steps, subject.batch_size)


# Seconds a step and member, as measured on one of two cores; ensembles of 50, and of 10.
MEASURED = {
    "MLP, quick": (mlp("quick"), 50, 0.00025, 0.0006),
    "MLP, full": (mlp("full"), 50, 0.0009, 0.0016),
    "VGG, quick": (vgg("quick"), 1, 0.010, 0.010),
    "VGG, full": (vgg("full"), 1, 0.025, 0.025),
    "ResNet, quick": (resnet("quick"), 1, 0.012, 0.012),
    "ResNet, full": (resnet("full"), 1, 0.035, 0.035),
    "deep linear": (deep_linear("quick"), 10, 0.0007, 0.0010),
}


@pytest.mark.parametrize(("subject", "members", "low", "high"), MEASURED.values(), ids=MEASURED)
def test_what_was_measured_is_expected_within_half(subject, members, low, high):
    expected = cost(spec(subject, "batch", members)) / subject.steps / members
    assert low / 1.5 < expected < high * 1.5


BASE = spec(vgg("quick"))
DEARER = {
    "width": replace(BASE, network=BASE.network.with_options(width=16)),
    "pixels": replace(BASE, data=replace(BASE.data, pool=1)),
    "channels": replace(BASE, data=Data("cifar10:somewhere")),
    "batch": replace(BASE, batch_size=128),
    "steps": replace(BASE, steps=300),
    "probes": replace(BASE, probe=Probe((0, 1), (1.0, 2.0))),
    "records": replace(BASE, record=Record((0, 1))),
    "measures": replace(BASE, measures=(Evaluate((1,)),)),
    "training samples": replace(BASE, measures=(Evaluate((1,), train=500),)),
    "blocks": replace(BASE, network=Network("resnet", options=(("width", 8), ("blocks", 3)))),
}


@pytest.mark.parametrize("dearer", DEARER.values(), ids=DEARER)
def test_what_takes_longer_is_expected_to(dearer):
    assert cost(dearer) > 1.0001 * cost(BASE)
    plain = replace(dearer, network=dearer.network.with_norm("none"))
    assert cost(plain) < cost(dearer)


def test_an_ensembles_cost_grows_with_depth_and_members():
    shallow, deep = (spec(mlp("quick", depth=depth), members=20) for depth in (8, 16))
    assert 1.5 < cost(deep) / cost(shallow) < 2.5
    assert cost(spec(mlp("quick"), members=40)) > 1.5 * cost(shallow)


def test_everything_has_a_cost():
    assert cost(LawSpec("lipschitz")) == 1.0
    users = TrainSpec(Network("net:make"), Data("net:data"), (Member(0, 0.1),), 300, 64)
    assert cost(users) == pytest.approx(0.2 + 300 * 0.03)
