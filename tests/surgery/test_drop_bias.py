"""Dropping biases that batch norm cancels changes neither training nor evaluation, exactly."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.landscape.everything import look_around
from tests.surgery.nets import Net, fresh, gap, leaves, outputs, randomise_
from tests.surgery.users import BatchNormAct
from xhat import drop_bias, freeze_
from xhat.surgery import Surgery

EXACT = 1e-9


pytestmark = pytest.mark.usefixtures("quick")


@dataclass
class Case:
    """A model, the layers whose bias must go, and those whose bias must stay, with words of the reason."""

    make: Callable[[], nn.Module]
    dropped: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = (4, 3, 5, 5)


def net(program: Callable[..., Any], **modules: nn.Module) -> Callable[[], nn.Module]:
    return lambda: Net(program, **copy.deepcopy(modules))


def chain(*modules: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(modules))


def conv() -> nn.Module:
    return nn.Conv2d(3, 4, 3)


def norm(**options: Any) -> nn.Module:
    return nn.BatchNorm2d(4, **options)


CASES: dict[str, Case] = {
    "conv": Case(chain(conv(), norm(), nn.ReLU(inplace=True)), ["0"]),
    "zero-padded": Case(chain(nn.Conv2d(3, 4, 3, padding=1), norm()), ["0"]),
    "grouped": Case(chain(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), ["0"]),
    "transposed": Case(chain(nn.ConvTranspose2d(3, 4, 3, stride=2), norm()), ["0"]),
    "linear": Case(chain(nn.Linear(5, 6), nn.BatchNorm1d(6)), ["0"], shape=(4, 5)),
    "linear-nd": Case(
        net(lambda n, x: n.bn(n.fc(x).movedim(-1, 1)), fc=nn.Linear(5, 4), bn=norm()),
        ["fc"],
        shape=(4, 3, 3, 5),
    ),
    "not-affine": Case(chain(conv(), norm(affine=False)), ["0"]),
    "cumulative": Case(chain(conv(), norm(momentum=None)), ["0"]),
    "no-statistics": Case(chain(conv(), norm(track_running_stats=False)), ["0"]),
    "activation-modules": Case(chain(conv(), BatchNormAct(4)), ["0"]),
    "reordered": Case(
        net(lambda n, x: n.bn(F.channel_shuffle(n.conv(x), 2)), conv=conv(), bn=norm()), ["conv"]
    ),
    "deep": Case(
        chain(conv(), norm(), nn.ReLU(), nn.Conv2d(4, 4, 1), norm(), nn.Flatten(), nn.Linear(36, 2)),
        ["0", "3"],
    ),
    "two-norms": Case(
        net(lambda n, x: n.a(n.conv(x)) * n.b(n.conv2(x)), conv=conv(), conv2=conv(), a=norm(), b=norm()),
        ["conv", "conv2"],
    ),
    "one-layer-two-norms": Case(
        net(
            lambda n, x: (lambda y: n.a(y) * n.b(y.flip(1)))(n.conv(x)),
            conv=conv(),
            a=norm(),
            b=norm(),
        ),
        ["conv"],
    ),
    "siamese": Case(
        net(lambda n, x: n.bn(n.conv(x)) * n.bn(n.conv(x.flip(2))), conv=conv(), bn=norm()), ["conv"]
    ),
    "other-norm-in-training": Case(
        net(lambda n, x: (n.a if n.training else n.b)(n.conv(x)), conv=conv(), a=norm(), b=norm()), ["conv"]
    ),
    "no-bias": Case(chain(nn.Conv2d(3, 4, 3, bias=False), norm())),
    "relu-between": Case(chain(conv(), nn.ReLU(), norm())),
    "pooling-between": Case(chain(conv(), nn.AvgPool2d(2), norm())),
    "sum-between": Case(net(lambda n, x: n.bn(n.conv(x) + n.other(x)), conv=conv(), other=conv(), bn=norm())),
    "shared-norm": Case(
        net(lambda n, x: n.bn(n.conv(x)) + n.bn(n.other(x)), conv=conv(), other=conv(), bn=norm()),
        refused={
            "conv": "bn also normalises what other gives",
            "other": "bn also normalises what conv gives",
        },
    ),
    "shared-norm-in-training": Case(
        net(
            lambda n, x: n.bn(n.conv(x)) + (n.bn(n.other(x)) if n.training else n.other(x)),
            conv=conv(),
            other=conv(),
            bn=norm(),
        ),
        refused={"conv": "bn also normalises what other gives"},
    ),
    "shared-norm-in-the-other-mode": Case(
        net(
            lambda n, x: n.b(n.conv(x)) if n.training else n.a(n.conv(x)) + n.b(x.new_ones(4, 4, 3, 3)),
            conv=conv(),
            a=norm(),
            b=norm(),
        ),
        refused={"conv": "b also normalises what"},
    ),
    "dropout-between": Case(
        chain(conv(), nn.Dropout(0.5), norm()), refused={"0": "it also reaches 1 in training mode"}
    ),
    "dropout-by-a-function": Case(
        net(lambda n, x: n.bn(F.dropout2d(n.conv(x), 0.5, n.training)), conv=conv(), bn=norm()),
        refused={"conv": "training mode"},
    ),
    "also-summed": Case(
        net(lambda n, x: (lambda y: n.bn(y) + y)(n.conv(x)), conv=conv(), bn=norm()), refused={"conv": "add"}
    ),
    "also-summed-in-training": Case(
        net(
            lambda n, x: (lambda y: n.bn(y) + y if n.training else n.bn(y))(n.conv(x)),
            conv=conv(),
            bn=norm(),
        ),
        refused={"conv": "training mode"},
    ),
    "bias-read": Case(
        net(lambda n, x: n.bn(n.conv(x)) + n.conv.bias.sum(), conv=conv(), bn=norm()),
        refused={"conv": "conv.bias is read by the model itself too"},
    ),
    "statistics-read": Case(
        net(lambda n, x: n.bn(n.conv(x)) + n.bn.running_mean.sum(), conv=conv(), bn=norm()),
        refused={"conv": "bn.running_mean is read by the model itself too"},
    ),
    "another-axis": Case(
        chain(nn.Linear(5, 3), nn.BatchNorm1d(3)), refused={"0": "another axis"}, shape=(4, 3, 5)
    ),
    "named-as-a-function": Case(
        net(lambda n, x: n.bn(n.conv(x) + 1), conv=conv(), bn=norm(), add=nn.Linear(2, 2)),
    ),
}


def checked(model: nn.Module, x: Tensor) -> Surgery:
    """Drop biases and require all that must hold of every model."""
    before = look_around(model)
    found = drop_bias(model, x)
    same = look_around(model) == before
    assert same
    assert [m.training for m in found.model.modules()] == [m.training for m in model.modules()]
    for given in ((x,), fresh((x,))):
        assert gap(outputs(model, given), outputs(found.model, given)) <= EXACT
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_cases(name: str, training: bool) -> None:
    case = CASES[name]
    torch.manual_seed(1)
    x = torch.randn(case.shape, dtype=torch.float64)
    model = case.make().double().train(training)
    randomise_(model)
    found = checked(model, x)
    assert [change.module for change in found.changes] == case.dropped
    reasons = {refusal.module: refusal.reason for refusal in found.refusals}
    assert reasons.keys() == case.refused.keys(), reasons
    assert all(words in reasons[layer] for layer, words in case.refused.items()), reasons
    for layer in case.dropped:
        assert found.model.get_submodule(layer).bias is None
    if name != "no-statistics":
        mean_moved(model, found)
    trained_the_same(model, found.model, x)


def mean_moved(model: nn.Module, found: Surgery) -> None:
    """Where the channels are in order, the running mean is less by the bias that is gone."""
    for change in found.changes:
        bias = model.get_submodule(change.module).bias.detach()
        norms = change.what.removeprefix("its bias is gone, moved into running_mean of ").split(" and ")
        for name in norms:
            moved = model.get_submodule(name).running_mean - found.model.get_submodule(name).running_mean
            torch.testing.assert_close(moved.sort().values, bias.sort().values, atol=1e-12, rtol=0)


def trained_the_same(old: nn.Module, new: nn.Module, x: Tensor) -> None:
    """Two steps of training: outputs, gradients of what both have, and running statistics."""
    old, new = copy.deepcopy(old).train(), copy.deepcopy(new).train()
    shared = dict(new.named_parameters())
    for step in range(2):
        gradients = []
        for model in (old, new):
            torch.manual_seed(step)
            model.zero_grad()
            outs = leaves(model(fresh(x, seed=step)))
            weights = torch.linspace(0.5, 2, outs[0].numel(), dtype=x.dtype).view(outs[0].shape)
            (outs[0] * weights).square().sum().backward()
            grads = {name: p.grad for name, p in model.named_parameters() if name in shared}
            gradients.append((outs, grads))
            torch.optim.SGD([p for n, p in model.named_parameters() if n in shared], lr=1e-3).step()
        assert gap(gradients[0][0], gradients[1][0]) <= EXACT
        for name, gradient in gradients[0][1].items():
            other = gradients[1][1][name]
            assert (gradient is None) == (other is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, other, atol=1e-8, rtol=1e-8)
    for name, buffer in old.named_buffers():
        if "running_var" in name or "num_batches" in name:
            torch.testing.assert_close(buffer, new.get_buffer(name), atol=1e-10, rtol=1e-10)
    given = (fresh(x, seed=9),)
    assert gap(outputs(old, given), outputs(new, given)) <= 1e-8  # running means have moved alike


def test_float32_keeps_outputs_within_rounding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    randomise_(model)
    found = drop_bias(model, torch.randn(4, 3, 6, 6))
    assert found.max_abs_error is not None
    assert 0 < found.max_abs_error < 1e-5


def test_one_value_a_channel_is_refused_with_what_torch_says() -> None:
    found = drop_bias(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(1, 3))
    assert found.changes == ()
    assert "more than 1 value per channel" in found.refusals[0].reason


def test_frozen_statistics_cancel_no_bias() -> None:
    model = freeze_(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    found = drop_bias(model, torch.randn(5, 3))
    assert found.changes == ()
    assert "1 keeps its running statistics in training mode too" in found.refusals[0].reason
