"""Group norms in the place of batch norms keep what can be kept, and what cannot be exchanged is said."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import xhat
from tests.surgery.users import BatchNormAct
from xhat.errors import UsageError
from xhat.surgery import Change, Refusal, convert_group_norm, freeze_


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def formula(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Group norm straight from its formula, in float64."""
    values = x.double().reshape(len(x), groups, -1)
    values = (values - values.mean(2, keepdim=True)) / (
        values.var(2, correction=0, keepdim=True) + eps
    ).sqrt()
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    out = values.reshape(x.shape)
    out = out if weight is None else out * weight.double().view(shape)
    return out if bias is None else out + bias.double().view(shape)


LAYERS: dict[str, tuple[Callable[[], nn.modules.batchnorm._BatchNorm], tuple[int, ...], int]] = {
    "1d": (lambda: nn.BatchNorm1d(8), (5, 8), 4),
    "1d-length": (lambda: nn.BatchNorm1d(6, eps=0.1), (5, 6, 7), 3),
    "2d": (lambda: nn.BatchNorm2d(64), (3, 64, 4, 5), 32),
    "3d": (lambda: nn.BatchNorm3d(48), (2, 48, 2, 3, 2), 24),
    "sync": (lambda: nn.SyncBatchNorm(12), (3, 12, 2, 2), 6),
    "not-affine": (lambda: nn.BatchNorm2d(10, affine=False), (3, 10, 2, 2), 5),
    "no-bias": (lambda: nn.BatchNorm2d(10, bias=False), (3, 10, 2, 2), 5),
    "no-statistics": (lambda: nn.BatchNorm2d(10, track_running_stats=False), (3, 10, 2, 2), 5),
    "prime": (lambda: nn.BatchNorm2d(13), (3, 13, 2, 2), 1),
    "one-channel": (lambda: nn.BatchNorm2d(1), (3, 1, 2, 2), 1),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "shape", "groups"), LAYERS.values(), ids=LAYERS)
def test_outputs_are_those_of_group_norm(
    make: Callable[[], nn.modules.batchnorm._BatchNorm], shape: tuple[int, ...], groups: int, training: bool
) -> None:
    layer = make()
    randomised(layer).train(training)
    net = nn.Sequential(nn.Identity(), layer).train(training)
    found = convert_group_norm(net)
    x = torch.randn(shape) * 3 + 1
    expected = F.group_norm(x, groups, layer.weight, layer.bias, layer.eps)
    assert torch.equal(found.model(x), expected)
    torch.testing.assert_close(
        found.model(x).double(), formula(x, groups, layer.weight, layer.bias, layer.eps), atol=1e-5, rtol=1e-5
    )
    new = found.model.get_submodule("1")
    assert type(new) is nn.GroupNorm
    assert new.affine is layer.affine
    assert new.training is training
    channels = shape[1] // groups
    assert found.changes == (
        Change(
            "1",
            f"GroupNorm of {groups} group{'s' * (groups > 1)} of {channels} channel{'s' * (channels > 1)}",
        ),
    )
    assert found.refusals == ()
    assert found.max_abs_error is None
    assert net[1] is layer


def test_a_batch_is_not_seen() -> None:
    net = convert_group_norm(randomised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))).model.train()
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))


@given(channels=st.integers(1, 300), most=st.integers(1, 300))
def test_the_number_of_groups(channels: int, most: int) -> None:
    groups = convert_group_norm(nn.BatchNorm1d(channels, affine=False), num_groups=most).model.num_groups
    fitting = [n for n in range(1, most + 1) if channels % n == 0 and channels // n >= 2]
    assert groups == max(fitting, default=1)


def test_what_is_kept() -> None:
    layer = nn.BatchNorm2d(4, eps=0.5, dtype=torch.float64)
    layer.weight.requires_grad_(False)
    net = randomised(nn.Sequential(nn.Conv2d(4, 4, 1, dtype=torch.float64), layer))
    before = copy.deepcopy(net.state_dict())
    found = convert_group_norm(net, num_groups=2)
    new = found.model.state_dict()
    assert list(new) == [key for key in before if "running" not in key and "tracked" not in key]
    assert all(torch.equal(value, before[key]) for key, value in new.items())
    assert [p.requires_grad for p in found.model.parameters()] == [True, True, False, True]
    assert [p.dtype for p in found.model.parameters()] == [torch.float64] * 4
    norm = found.model.get_submodule("1")
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.eps, norm.num_groups, norm.num_channels) == (0.5, 2, 4)
    # The original is untouched and shares no memory.
    nn.init.zeros_(norm.weight)
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class Caching(nn.Module):
    """Keeps what it computed, as for a loss; deepcopy refuses a tensor with a history."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        self.cached = self.norm(x)
        return self.cached


def test_a_model_that_caches_an_activation() -> None:
    net = Caching()
    net(torch.randn(2, 4, 3, 3))
    assert [change.module for change in convert_group_norm(net).changes] == ["norm"]


def test_a_norm_that_a_list_holds_too_is_left() -> None:
    net = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    net.held = [net[0]]
    found = convert_group_norm(net)
    assert [change.module for change in found.changes] == ["1"]
    assert found.refusals == (Refusal("0", "held holds it too, where it could not be replaced"),)


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.BatchNorm2d(4))
    assert {p.device.type for p in convert_group_norm(net).model.parameters()} == {"meta"}


def test_shared_layers_and_shared_parameters_stay_shared() -> None:
    norm, other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    other.weight = norm.weight
    net = nn.ModuleDict({"a": nn.Sequential(norm, other), "b": norm})
    found = convert_group_norm(net)
    model = found.model
    assert model.get_submodule("a.0") is model.get_submodule("b")
    assert model.get_submodule("a.1").weight is model.get_submodule("b").weight
    assert [change.module for change in found.changes] == ["a.0", "a.1"]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_itself(training: bool) -> None:
    layer = nn.BatchNorm2d(8).train(training)
    found = convert_group_norm(layer)
    assert type(found.model) is nn.GroupNorm
    assert found.model.training is training
    assert found.changes == (Change("", "GroupNorm of 4 groups of 2 channels"),)


def test_a_model_without_batch_norms_is_only_copied() -> None:
    found = convert_group_norm(net := nn.Linear(2, 2))
    assert (found.changes, found.refusals) == ((), ())
    assert found.model is not net


def test_the_copy_trains() -> None:
    net = convert_group_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).model
    net(torch.randn(2, 3, 5, 5)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


# What is refused.


def hooked(register: str) -> nn.Module:
    layer = nn.BatchNorm2d(4)
    getattr(layer, register)(lambda *_: None)
    return layer


def parametrised() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    return layer


def patched() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.forward = lambda x: x  # type: ignore[method-assign, assignment]
    return layer


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "overridden": (lambda: BatchNormAct(4), "BatchNormAct computes something of its own"),
    "patched": (patched, "BatchNorm2d computes something of its own"),
    "forward-hook": (lambda: hooked("register_forward_hook"), "hooks"),
    "forward-pre-hook": (lambda: hooked("register_forward_pre_hook"), "hooks"),
    "backward-hook": (lambda: hooked("register_full_backward_hook"), "hooks"),
    "backward-pre-hook": (lambda: hooked("register_full_backward_pre_hook"), "hooks"),
    "parametrised": (parametrised, "parametrised"),
    "lazy": (nn.LazyBatchNorm2d, "lazy"),
    "frozen": (lambda: freeze_(nn.BatchNorm2d(4)), "frozen"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exchanged_is_left_and_said(make: Callable[[], nn.Module], reason: str) -> None:
    net = nn.Sequential(make(), nn.BatchNorm2d(4))
    found = convert_group_norm(net)
    (refusal,) = found.refusals
    assert isinstance(refusal, Refusal)
    assert refusal.module == "0"
    assert reason in refusal.reason
    assert type(found.model.get_submodule("0")) is type(net[0])
    assert [change.module for change in found.changes] == ["1"]
    assert repr(found) == "Surgery(1 changed, 1 refused)"


def test_a_lazy_layer_waits_in_the_copy_by_itself() -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d())
    model = convert_group_norm(net).model
    assert model(torch.randn(2, 3, 5, 5)).shape == (2, 4, 5, 5)
    assert type(net[1]) is nn.LazyBatchNorm2d
    net(torch.randn(2, 2, 5, 5))


def test_an_initialised_lazy_layer_is_converted() -> None:
    layer = nn.LazyBatchNorm2d()
    layer(torch.randn(2, 4, 3, 3))
    assert convert_group_norm(layer).changes[0].what == "GroupNorm of 2 groups of 2 channels"


@pytest.mark.parametrize("groups", [0, -1])
def test_groups_out_of_range(groups: int) -> None:
    with pytest.raises(UsageError, match=f"num_groups={groups}: a group norm has at least one group"):
        convert_group_norm(nn.BatchNorm1d(2), num_groups=groups)


def test_the_name_is_had_from_xhat() -> None:
    assert xhat.convert_group_norm is convert_group_norm
