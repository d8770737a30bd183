"""The twins without and with batch norm compute the same in evaluation mode."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.landscape.everything import look_around
from tests.surgery.nets import Net, fresh, gap, norms_of, outputs, randomise_
from tests.surgery.users import BatchNormAct
from xhat import add_batch_norm, fold, freeze_, remove_batch_norm
from xhat.nn import ChannelAffine, WithBatchNorm
from xhat.surgery import Surgery

EXACT = 1e-9


pytestmark = pytest.mark.usefixtures("quick")


@dataclass
class Case:
    """A model, the modules that must be changed, and refused ones with words of the reason."""

    make: Callable[[], nn.Module]
    done: list[str]
    refused: dict[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = (4, 3, 5, 5)


def net(program: Callable[..., Any], **modules: nn.Module) -> Callable[[], nn.Module]:
    return lambda: Net(program, **copy.deepcopy(modules))


def chain(*modules: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(modules))


def conv(channels: int = 3, **options: Any) -> nn.Module:
    return nn.Conv2d(channels, 4, 3, padding=1, **options)


def held(*modules: nn.Module) -> nn.Module:
    model = nn.Sequential(*modules)
    model.held = [modules[1]]
    return model


class Functional(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x))


class Block(nn.Module):
    """As transformers have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.norm2(x))))


REMOVED: dict[str, Case] = {
    "conv": Case(chain(conv(), nn.BatchNorm2d(4), nn.ReLU()), ["1"]),
    "no-bias": Case(chain(conv(bias=False), nn.BatchNorm2d(4), nn.ReLU()), ["1"]),
    "linear-nd": Case(
        net(lambda n, x: n.bn(n.fc(x).movedim(-1, 1)), fc=nn.Linear(5, 6), bn=nn.BatchNorm2d(6)), ["bn"]
    ),
    "not-affine": Case(chain(conv(), nn.BatchNorm2d(4, affine=False)), ["1"]),
    "in-front": Case(chain(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), ["0"]),
    "first": Case(chain(nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)), ["0"], shape=(4, 5)),
    "behind-a-sum": Case(
        net(lambda n, x: n.bn(n.conv(x) + x), conv=nn.Conv2d(3, 3, 1), bn=nn.BatchNorm2d(3)), ["bn"]
    ),
    "1d-of-sequences": Case(chain(nn.ReLU(), nn.BatchNorm1d(3), nn.ReLU()), ["1"], shape=(4, 3, 7)),
    "3d": Case(chain(nn.ReLU(), nn.BatchNorm3d(3)), ["1"], shape=(4, 3, 2, 3, 2)),
    "siamese": Case(
        net(lambda n, x: n.bn(n.conv(x)) * n.bn(n.conv(x.flip(2))), conv=conv(), bn=nn.BatchNorm2d(4)), ["bn"]
    ),
    "shared-norm": Case(
        net(lambda n, x: n.bn(n.a(x)) + n.bn(n.b(x)), a=conv(), b=conv(), bn=nn.BatchNorm2d(4)), ["bn"]
    ),
    "two-in-a-row": Case(chain(conv(), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), ["1", "2"]),
    "dropout-between": Case(chain(conv(), nn.Dropout(0.5), nn.BatchNorm2d(4)), ["2"]),
    "view-of-what-it-lays-out": Case(
        net(lambda n, x: n.bn(n.fc(x).transpose(1, 2)).view(4, -1), fc=nn.Linear(5, 6), bn=nn.BatchNorm1d(6)),
        ["bn"],
        shape=(4, 3, 5),
    ),
    "view-behind-a-sum": Case(
        net(
            lambda n, x: n.bn((n.fc(x) + n.fc(x)).transpose(1, 2)).view(4, -1),
            fc=nn.Linear(5, 6),
            bn=nn.BatchNorm1d(6),
        ),
        ["bn"],
        shape=(4, 3, 5),
    ),
    "activation-modules": Case(chain(conv(), BatchNormAct(4)), ["1"]),
    "activation-modules-behind-a-sum": Case(
        net(lambda n, x: n.bn(n.conv(x) + n.conv(x)), conv=conv(), bn=BatchNormAct(4)), ["bn"]
    ),
    "activation-function": Case(chain(conv(), Functional(4)), [], {"1": "cannot be taken apart"}),
    "batch-statistics": Case(
        chain(conv(), nn.BatchNorm2d(4, track_running_stats=False)), [], {"1": "the batch's statistics"}
    ),
    "not-reached": Case(
        net(lambda n, x: n.conv(x), conv=conv(), bn=nn.BatchNorm2d(4)), [], {"bn": "did not reach"}
    ),
    "held-by-a-list": Case(
        lambda: held(conv(), nn.BatchNorm2d(4), nn.ReLU()), [], {"1": "held holds it too"}
    ),
    "frozen": Case(lambda: freeze_(nn.Sequential(conv(), nn.BatchNorm2d(4))), ["1"]),
    "in-training-otherwise": Case(
        net(
            lambda n, x: n.bn(n.a(x)) + n.b(x) if n.training else n.bn(n.b(x)) + n.a(x),
            a=conv(),
            b=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        ["bn"],
    ),
}

ADDED: dict[str, Case] = {
    "vgg": Case(
        chain(conv(), nn.ReLU(), conv(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2)),
        ["0", "2"],
        {"5": "no other layer follows"},
    ),
    "no-bias": Case(chain(conv(bias=False), nn.ReLU(), conv(4)), ["0"], {"2": "no other layer follows"}),
    "transposed": Case(
        chain(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.ReLU(inplace=True), conv(4)), ["0"], {"2": "follows"}
    ),
    "linear-nd": Case(chain(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 2)), ["0"], {"2": "follows"}, (4, 3, 5)),
    "1d": Case(chain(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 1)), ["0"], {"2": "follows"}, (4, 3, 7)),
    "3d": Case(
        chain(nn.Conv3d(3, 4, 2), nn.ReLU(), nn.Conv3d(4, 2, 1)), ["0"], {"2": "follows"}, (4, 3, 2, 3, 3)
    ),
    "normalised-already": Case(
        chain(conv(), nn.BatchNorm2d(4), conv(4), nn.GroupNorm(2, 4), conv(4)),
        [],
        {"0": "1 normalises it already", "2": "3 normalises it already", "4": "follows"},
    ),
    "shared-layer": Case(
        net(lambda n, x: n.out(F.relu(n.conv(x)) + n.conv(x.flip(3))), conv=conv(), out=conv(4)),
        [],
        {"conv": "called 2 times", "out": "no other layer follows"},
    ),
    "residual": Case(
        net(
            lambda n, x: n.out((lambda y: y + n.b(F.relu(n.a(y))))(n.stem(x)).mean((2, 3))),
            stem=conv(),
            a=conv(4),
            b=conv(4),
            out=nn.Linear(4, 2),
        ),
        ["stem", "a", "b"],
        {"out": "follows"},
    ),
    "changed-in-place": Case(
        net(lambda n, x: n.out(n.conv(x).relu_().mul_(2)), conv=conv(), out=conv(4)),
        ["conv"],
        {"out": "follows"},
    ),
    "held-by-a-list": Case(
        lambda: held(nn.ReLU(), conv(), conv(4)), [], {"1": "held holds it too", "2": "follows"}
    ),
    "attributes-read": Case(
        net(lambda n, x: n.out(n.conv(x) * n.conv.out_channels), conv=conv(), out=conv(4)),
        ["conv"],
        {"out": "follows"},
    ),
    "weight-read": Case(
        net(lambda n, x: n.out(n.conv(x) * n.conv.weight.mean()), conv=conv(), out=conv(4)),
        [],
        {"conv": "conv.weight is read by the model itself too", "out": "follows"},
    ),
    "not-reached": Case(
        net(lambda n, x: n.out(n.conv(x)), conv=conv(), spare=conv(), out=conv(4)),
        ["conv"],
        {"spare": "did not reach", "out": "follows"},
    ),
    "one-sample-without-a-batch": Case(
        chain(conv(), nn.ReLU(), conv(4)), [], {"0": "without a batch axis", "2": "follows"}, (3, 5, 5)
    ),
    "several-heads": Case(
        net(lambda n, x: (n.a(n.conv(x)), n.b(n.conv2(x))), conv=conv(), conv2=conv(), a=conv(4), b=conv(4)),
        ["conv", "conv2"],
        {"a": "follows", "b": "follows"},
    ),
    "transformer": Case(
        lambda: nn.Sequential(nn.Linear(5, 8), Block(8), Block(8), nn.Linear(8, 2)),
        ["1.up", "1.down", "2.up", "2.down"],
        {
            "0": "1.norm1 normalises it already",
            "1.attention.out_proj": "did not reach",
            "2.attention.out_proj": "did not reach",
            "3": "follows",
        },
        (4, 6, 5),
    ),
}


def checked(surgery: Callable[..., Surgery], case: Case, training: bool) -> tuple[nn.Module, Surgery, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(case.shape, dtype=torch.float64)
    model = case.make().double().train(training)
    randomise_(model)
    before = look_around(model)
    found = surgery(model, x)
    same = look_around(model) == before
    assert same
    assert [change.module for change in found.changes] == case.done, found.refusals
    reasons = {refusal.module: refusal.reason for refusal in found.refusals}
    assert reasons.keys() == case.refused.keys(), reasons
    assert all(words in reasons[name] for name, words in case.refused.items()), reasons
    for given in ((x,), fresh((x,))):
        assert gap(outputs(model, given), outputs(found.model, given)) <= EXACT
    assert found.max_abs_error is not None
    assert found.max_abs_error < EXACT
    assert found.model.training is training
    return model, found, x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", REMOVED)
def test_removed(name: str, training: bool) -> None:
    case = REMOVED[name]
    _, found, x = checked(remove_batch_norm, case, training)
    assert norms_of(found.model) == list(case.refused)
    if name != "frozen":
        assert all(module.training is training for module in found.model.modules())
    if not case.refused:  # the twin trains
        loss = sum(out.square().sum() for out in [found.model(x)])
        loss.backward()
        assert all(p.grad is not None for p in found.model.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ADDED)
def test_added(name: str, training: bool) -> None:
    case = ADDED[name]
    model, found, x = checked(add_batch_norm, case, training)
    assert len(norms_of(found.model)) == len(norms_of(model)) + len(case.done)
    assert all(module.training is training for module in found.model.modules())
    for layer in case.done:
        twin = found.model.get_submodule(layer)
        assert isinstance(twin, WithBatchNorm)
        assert twin.layer.bias is None
        assert torch.equal(twin.layer.weight, model.get_submodule(layer).weight)
    found.model.train()
    seen: dict[str, Tensor] = {}
    for layer in case.done:
        found.model.get_submodule(layer).norm.register_forward_hook(
            lambda _, __, out, layer=layer: seen.update({layer: out.detach().clone()})
        )
    found.model(x)
    for layer in case.done:  # from the first step on each channel has mean β and variance about 1
        out = seen[layer].movedim(1, 0).flatten(1)
        beta = found.model.get_submodule(layer).norm.bias.detach()
        torch.testing.assert_close(out.mean(1), beta, atol=1e-9, rtol=0)
        assert bool((out.var(1, correction=0) > 0.9).all())


@pytest.mark.parametrize("name", [name for name, case in ADDED.items() if case.done])
def test_there_and_back(name: str) -> None:
    case = ADDED[name]
    torch.manual_seed(2)
    x = torch.randn(case.shape, dtype=torch.float64)
    model = case.make().double()
    withal = add_batch_norm(model, x).model
    back = remove_batch_norm(withal, x)
    assert norms_of(back.model) == norms_of(model)
    assert back.refusals == ()
    for layer in case.done:
        old, new = model.get_submodule(layer), back.model.get_submodule(f"{layer}.layer")
        torch.testing.assert_close(old.weight, new.weight, atol=1e-12, rtol=1e-12)
        if old.bias is not None:
            torch.testing.assert_close(old.bias, new.bias, atol=1e-12, rtol=1e-12)
    folded = fold(withal, x)
    assert folded.refusals == ()
    assert gap(outputs(model, (x,)), outputs(folded.model, (x,))) <= EXACT


def test_the_twin_of_a_fresh_model_keeps_its_initialisation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    twin = remove_batch_norm(model, torch.randn(2, 3, 5, 5)).model
    torch.testing.assert_close(twin[0].weight, model[0].weight, atol=0, rtol=1e-5)
    assert bool((twin[0].bias == 0).all())
    assert twin[0].bias.requires_grad


def test_what_stays_of_a_norm_that_no_layer_takes_over() -> None:
    model = nn.Sequential(nn.ReLU(), BatchNormAct(3))
    twin = remove_batch_norm(model, torch.randn(2, 3, 5, 5)).model
    assert [type(module) for module in twin[1]] == [ChannelAffine, nn.Dropout, nn.ReLU]


def test_states_can_be_saved_and_loaded() -> None:
    x = torch.randn(4, 3, 5, 5)
    model = ADDED["residual"].make()
    one, other = add_batch_norm(model, x).model, add_batch_norm(ADDED["residual"].make(), x).model
    other.load_state_dict(one.state_dict())
    assert gap(outputs(one, (x,)), outputs(other, (x,))) == 0
    assert gap(outputs(one, (x,)), outputs(copy.deepcopy(one), (x,))) == 0


def test_torchs_own_transformer_in_its_fast_path() -> None:
    """In evaluation mode it reads weights past the modules' forward, so layers may be refused, never wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), nn.Linear(8, 2)
    ).double()
    randomise_(model)
    x = torch.randn(3, 5, 8).double()
    found = add_batch_norm(model, x)
    for given in ((x,), fresh((x,))):
        assert gap(outputs(model, given), outputs(found.model, given)) <= EXACT


def test_the_model_itself() -> None:
    assert remove_batch_norm(nn.BatchNorm1d(3), torch.randn(4, 3)).refusals[0].module == ""
    assert add_batch_norm(nn.Linear(3, 2), torch.randn(4, 3)).refusals[0].module == ""
