"""Modules that others look into are not folded."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from tests.surgery.folding import Case, check, pair, weight_norm_of_old
from xhat import fold

pytestmark = pytest.mark.usefixtures("quick")


def tied() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3))
    net[2].weight = net[0].weight
    return net


def tied_by_a_view() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3)).double()
    net[2].weight = nn.Parameter(net[0].weight.detach()[:2])
    return net


def tied_norms() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net[3].weight = net[1].weight
    return net


def changed(change: Callable[[nn.Sequential], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = pair()
        change(net)
        return net

    return make


def set_forward(net: nn.Sequential) -> None:
    forward = net[0].forward
    net[0].forward = lambda x: forward(x) * 2


HINDERED: dict[str, Case] = {
    "tied": Case(tied, refused={"1": "0.weight is also 2.weight"}),
    "tied-by-a-view": Case(tied_by_a_view),  # a copy ties them no more, as deepcopy has it
    "tied-norms": Case(
        tied_norms, refused={"1": "1.weight is also 3.weight", "3": "3.weight is also 1.weight"}
    ),
    "weight-norm-of-old": Case(changed(lambda n: weight_norm_of_old(n[0])), refused={"1": "0 has hooks"}),
    "spectral-norm-of-old": Case(changed(lambda n: spectral_norm(n[0])), refused={"1": "0 has hooks"}),
    "weight-norm": Case(
        changed(lambda n: parametrizations.weight_norm(n[0])), refused={"1": "0 has parametrizations"}
    ),
    "spectral-norm": Case(
        changed(lambda n: parametrizations.spectral_norm(n[0])), refused={"1": "0 has parametrizations"}
    ),
    "orthogonal-norm": Case(
        changed(lambda n: parametrizations.weight_norm(n[1])), refused={"1": "1 has parametrizations"}
    ),
    "pruned": Case(
        changed(lambda n: prune.random_unstructured(n[0], "weight", 0.3)), refused={"1": "0 has hooks"}
    ),
    "pruned-for-good": Case(
        changed(lambda n: prune.remove(prune.random_unstructured(n[0], "weight", 0.3), "weight"))
    ),
    "hook-of-conv": Case(
        changed(lambda n: n[0].register_forward_hook(lambda *_: None)), refused={"1": "0 has hooks"}
    ),
    "hook-of-conv-that-changes": Case(
        changed(lambda n: n[0].register_forward_hook(lambda m, i, o: o * 2)), refused={"1": "0 has hooks"}
    ),
    "hook-before-conv": Case(
        changed(lambda n: n[0].register_forward_pre_hook(lambda m, i: (i[0] * 2,))),
        refused={"1": "0 has hooks"},
    ),
    "hook-of-norm": Case(
        changed(lambda n: n[1].register_forward_hook(lambda *_: None)), refused={"1": "1 has hooks"}
    ),
    "hook-before-norm": Case(
        changed(lambda n: n[1].register_forward_pre_hook(lambda *_: None)), refused={"1": "1 has hooks"}
    ),
    "hook-of-backward": Case(
        changed(lambda n: n[0].register_full_backward_hook(lambda *_: None)), refused={"1": "0 has hooks"}
    ),
    "hook-behind": Case(changed(lambda n: n[2].register_forward_hook(lambda *_: None))),
    "hook-of-the-model": Case(changed(lambda n: n.register_forward_hook(lambda m, i, o: o + 1))),
    "hook-of-a-container-of-conv": Case(
        lambda: hooked(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))),
        refused={"1": "hooks of others on 0 see what 0.0 computes"},
    ),
    "scripted-conv": Case(
        lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3).double()), nn.BatchNorm2d(4)),
        refused={"1": "convolution"},
    ),
    "scripted-behind": Case(
        lambda: nn.Sequential(*pair()[:2], torch.jit.script(nn.Conv2d(4, 2, 1).double()))
    ),
    "traced-inside": Case(
        lambda: nn.Sequential(
            torch.jit.trace(pair().eval(), torch.randn(2, 3, 7, 7).double()),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
        )
    ),
    "forward-set-on-conv": Case(changed(set_forward), refused={"1": "0 has a forward method of its own"}),
    "in-a-list": Case(
        lambda: holding(lambda net: [net[1]]),
        refused={"1": "held holds it too, where it could not be replaced"},
    ),
    "in-a-dict": Case(
        lambda: holding(lambda net: {"a": (0, {net[1]: 2})}), refused={"1": "held holds it too"}
    ),
    "in-an-unregistered-module": Case(
        lambda: holding(lambda net: [nn.Sequential(net[1])]), refused={"1": "held holds it too"}
    ),
    "its-method": Case(lambda: holding(lambda net: net[1].forward), refused={"1": "held holds it too"}),
    "its-layer-in-a-list": Case(lambda: holding(lambda net: [net[0], net[2]])),
    "gamma-infinite": Case(
        changed(lambda n: n[1].weight.data[0].fill_(torch.inf)), refused={"1": "not finite"}
    ),
    "variance-negative": Case(
        changed(lambda n: n[1].running_var.data[0].fill_(-1)), refused={"1": "negative"}
    ),
    "mean-nan": Case(
        changed(lambda n: n[1].running_mean.data[0].fill_(torch.nan)), refused={"1": "not finite"}
    ),
}


def holding(what: Callable[[nn.Sequential], object]) -> nn.Sequential:
    net = pair()
    net.held = what(net)
    return net


def hooked(net: nn.Sequential) -> nn.Sequential:
    net[0].register_forward_hook(lambda *_: None)
    return net


def test_the_reason_names_the_model_where_the_norm_has_no_name() -> None:
    norm = nn.BatchNorm2d(3)
    norm.register_forward_hook(lambda *_: None)
    (refusal,) = fold(norm, torch.randn(2, 3, 4, 4)).refusals
    assert refusal.reason == "the model has hooks of others, which may read or change what it computes"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", HINDERED)
def test_modules_that_others_look_into(name: str) -> None:
    case = HINDERED[name]
    torch.manual_seed(3)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    model = case.make().double()
    finite = name not in ("gamma-infinite", "variance-negative", "mean-nan")
    if finite:
        check(model, (x,), case.refused)
    else:
        found = fold(model, x)
        assert [refusal.module for refusal in found.refusals] == ["1"]
        assert case.refused["1"] in found.refusals[0].reason
        assert torch.equal(found.model(x).isnan(), model.eval()(x).isnan())
