import random
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xhat.data import load
from xhat.errors import DataError, ModelError, UsageError
from xhat.models import MLP, initialise_
from xhat.study.networks import build
from xhat.study.spec import FIRST_SEED, Data, Member, Network, Probe, Record, TrainSpec
from xhat.study.tasks import Classification, LinearRegression
from xhat.study.train import load_data, train

from .users import NETWORK

SMALL = (("depth", 2), ("width", 8))
DIGITS = Data("digits", 200, 100)
MEMBERS = tuple(Member(seed, lr) for seed in (0, 1) for lr in (0.05, 0.5))
SPEC = TrainSpec(Network("mlp", "batch", SMALL), DIGITS, MEMBERS, steps=20, batch_size=32)
VGG = replace(SPEC, network=Network("vgg", "batch", (("width", 2),)), members=(Member(0, 0.1),), steps=4)
LINEAR = replace(
    SPEC,
    network=Network("deep-linear", "batch", (("depth", 3),)),
    data=Data("gaussian"),
    members=(Member(0, 1e-6),),
)
PROBE, RECORD = Probe((0, 3), (0.5, 4.0)), Record((0, 2, 3), batch=16)
KINDS = {"mlp": SPEC, "vgg": VGG, "deep-linear": LINEAR}


def assert_same_bits(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


# --- the numbers


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
def test_the_same_spec_gives_the_same_bits(spec):
    spec = replace(spec, probe=PROBE, record=RECORD, gradients=True)
    record, arrays = train(spec)
    torch.rand(3)
    again, arrays_again = train(spec)
    assert_same_bits(arrays_again, arrays)
    times = {"seconds": 0, "training_seconds": 0}
    assert record | times == again | times


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_training_is_torchs_own_sgd(norm, momentum):
    """The oracle: a plain module, a plain loop, ``torch.optim.SGD``."""
    spec = replace(SPEC, network=SPEC.network.with_norm(norm), momentum=momentum)
    _, arrays = train(spec)
    data = load_data(DIGITS, None)
    for place, member in enumerate(MEMBERS):
        with torch.random.fork_rng():
            torch.manual_seed(FIRST_SEED + member.seed)
            model = MLP(64, 10, norm=norm, **dict(SMALL))
            initialise_(model, "he")
        optimizer = torch.optim.SGD(model.parameters(), lr=member.lr, momentum=momentum)
        task = Classification(data, member.seed, spec.batch_size)
        losses = []
        for step in range(spec.steps):
            x, y = task.batch(step)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        np.testing.assert_allclose(arrays["loss"][place], losses, rtol=2e-3)
        right = (model.eval()(data.test_x).argmax(1) == data.test_y).float().mean().item()
        assert arrays["test_accuracy"][place] == pytest.approx(right, abs=0.0101)  # a sample on the edge


def test_a_users_network_with_momentum_is_torchs_own_sgd(write_module, tmp_path):
    network = Network(f"{write_module(NETWORK)}:make_model")
    spec = replace(SPEC, network=network, members=(Member(2, 0.1, "own"),), momentum=0.9)
    _, arrays = train(spec, folder=tmp_path)
    data = load_data(DIGITS, None)
    model = build(network, spec.members, data, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    task = Classification(data, 2, spec.batch_size)
    for step in range(spec.steps):
        x, y = task.batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        assert arrays["loss"][0, step] == pytest.approx(loss.item(), rel=1e-5)
    right = (model.eval()(data.test_x).argmax(1) == data.test_y).double().mean().item()
    assert arrays["test_accuracy"].tolist() == [right]


def test_what_a_run_says():
    record, arrays = train(replace(SPEC, probe=PROBE, record=RECORD, gradients=True))
    shapes = {
        "loss": (4, 20),
        "final_loss": (4,),
        "chance": (4,),
        "trains": (4,),
        "test_accuracy": (4,),
        "probe_step": (2,),
        "probe_ratio": (2,),
        "probe_loss": (4, 2, 2),
        "probe_distance": (4, 2, 2),
        "probe_start": (4, 2),
        "probe_gradient": (4, 2),
        "probe_weight": (4, 2),
        "record_step": (3,),
        "record_quantile": (21,),
        "layer_gradient": (4, 3),
    }
    assert {name: arrays[name].shape for name in shapes} == shapes
    # else numpy would sum them in another order once they come from the store
    assert all(array.flags.c_contiguous for array in arrays.values())
    assert record["positions"][0] == ["hidden.0.0", "input"]
    for place, (layer, side) in enumerate(record["positions"]):
        units = (
            64
            if (layer, side) == ("hidden.0.0", "input")
            else 10
            if (layer, side) == ("output", "output")
            else 8
        )
        assert arrays[f"record_{place}_mean"].shape == arrays[f"record_{place}_std"].shape == (3, 4, units)
        assert arrays[f"record_{place}_dead"].shape == (3, 4)
        assert arrays[f"record_{place}_pooled"].shape == (3, 4, 21)
        assert arrays[f"record_{place}_units"].shape == (3, 4, 8, 21)
    assert record["layers"] == ["hidden.0.0.weight", "hidden.1.0.weight", "output.weight"]
    assert record["seconds"] > 0


def test_final_loss_is_the_mean_of_the_last_tenth():
    _, arrays = train(SPEC)
    np.testing.assert_allclose(arrays["final_loss"], arrays["loss"][:, -2:].mean(1), rtol=1e-6)


def test_gradients_at_the_start_are_torchs_own():
    _, arrays = train(replace(SPEC, gradients=True))
    data = load_data(DIGITS, None)
    model = build(SPEC.network, MEMBERS[2:3], data)
    x, y = Classification(data, 1, SPEC.batch_size).batch(0)
    F.cross_entropy(model(x.flatten(1).T[None])[0].T, y).backward()
    norms = [p.grad.norm().item() for p in model.parameters() if p.dim() == 3]
    np.testing.assert_allclose(arrays["layer_gradient"][2], norms, rtol=1e-4)


def test_a_probe_is_the_loss_and_gradient_at_a_step_by_hand():
    _, arrays = train(replace(SPEC, probe=Probe((0,), (0.5, 4.0))))
    data = load_data(DIGITS, None)
    x, y = Classification(data, 1, SPEC.batch_size).batch(0)

    def loss_and_gradient(shift: float, slopes: list | None) -> tuple[float, list[torch.Tensor]]:
        model = build(SPEC.network, MEMBERS[3:4], data)
        parameters = list(model.parameters())
        with torch.no_grad():
            for p, slope in zip(parameters, slopes or [], strict=False):
                p -= shift * slope
        loss = F.cross_entropy(model(x.flatten(1).T[None])[0].T, y)
        return loss.item(), list(torch.autograd.grad(loss, parameters))

    start, gradient = loss_and_gradient(0.0, None)
    assert arrays["probe_start"][3, 0] == pytest.approx(start, rel=1e-5)
    for place, ratio in enumerate((0.5, 4.0)):
        loss, here = loss_and_gradient(ratio * 0.5, gradient)
        distance = sum(((a - b) ** 2).sum().item() for a, b in zip(gradient, here, strict=True)) ** 0.5
        assert arrays["probe_loss"][3, 0, place] == pytest.approx(loss, rel=1e-4)
        assert arrays["probe_distance"][3, 0, place] == pytest.approx(distance, rel=1e-3)


# --- probes leave training as it is


@pytest.mark.parametrize("extra", [{"probe": PROBE}, {"record": RECORD}, {"gradients": True}])
@pytest.mark.parametrize("norm", ["batch", "none+noise"])
def test_a_look_at_a_training_does_not_change_it(norm, extra):
    spec = replace(SPEC, network=SPEC.network.with_norm(norm), momentum=0.5)
    _, plain = train(spec)
    _, watched = train(replace(spec, **extra))
    assert_same_bits({name: watched[name] for name in plain}, plain)


def test_a_look_at_a_users_network_does_not_change_it(write_module, tmp_path):
    text = NETWORK.replace("nn.ReLU()", "nn.Dropout(0.3)")
    spec = replace(
        SPEC, network=Network(f"{write_module(text)}:make_model"), members=(Member(0, 0.1, "own"),)
    )
    _, plain = train(spec, folder=tmp_path)
    _, watched = train(replace(spec, probe=PROBE, record=RECORD, gradients=True), folder=tmp_path)
    assert_same_bits({name: watched[name] for name in plain}, plain)
    assert (
        plain["loss"][0, 0]
        != train(replace(spec, members=(Member(1, 0.1, "own"),)), folder=tmp_path)[1]["loss"][0, 0]
    )


def test_arms_of_a_seed_see_the_same_batches():
    _, plain = train(replace(SPEC, network=SPEC.network.with_norm("none")))
    _, noisy = train(replace(SPEC, network=SPEC.network.with_norm("none+noise"), steps=1))
    _, start = train(replace(SPEC, network=SPEC.network.with_norm("none"), steps=1))
    assert plain["loss"][:, 0].tobytes() == start["loss"][:, 0].tobytes()
    assert (noisy["loss"][:, 0] != start["loss"][:, 0]).all()
    assert plain["loss"][0, 0] == plain["loss"][1, 0]  # two rates of a seed begin alike


# --- who trains

RULE = """
import torch
from torch import nn


class Blank(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return torch.zeros_like(slope)


class Net(nn.Module):
    \"\"\"Knows the class (its input is the one-hot class) and says it with a fixed confidence.\"\"\"

    def __init__(self, gain, bad=None, value=float("nan")):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4) * gain)
        self.step, self.bad, self.value = 0, bad, value

    def forward(self, x):
        out = Blank.apply(x @ self.weight)
        self.step += self.training
        return out + self.value if self.training and self.step - 1 == self.bad else out


def one_hot():
    y = torch.arange(80) % 4
    return nn.functional.one_hot(y, 4).float(), y


def confident(norm): return Net(5.0)
def just(norm): return Net(JUST + 0.001)
def not_quite(norm): return Net(JUST - 0.001)
def ignorant(norm): return Net(0.0)
def nan_in_the_middle(norm): return Net(5.0, 7)
def inf_at_the_end(norm): return Net(5.0, 19, float("-inf"))
def nan_at_the_start(norm): return Net(5.0, 0)
"""


def gain_of_half_chance() -> float:
    """The confidence a of a loss ln(1 + 3 e⁻ᵃ) of half of ln 4, so that e⁻ᵃ = (2 − 1)/3."""
    return float(np.log(3.0))


@pytest.mark.parametrize(
    ("factory", "trains", "steps"),
    [
        ("confident", True, 20),
        ("just", True, 20),
        ("not_quite", False, 20),
        ("ignorant", False, 20),
        ("nan_in_the_middle", False, 7),
        ("inf_at_the_end", False, 19),
        ("nan_at_the_start", False, 0),
    ],
)
def test_who_trains(write_module, tmp_path, factory, trains, steps):
    name = write_module(RULE.replace("JUST", repr(gain_of_half_chance())))
    spec = TrainSpec(Network(f"{name}:{factory}"), Data(f"{name}:one_hot"), (Member(0, 0.1, "own"),), 20, 8)
    told: list[float] = []
    _, arrays = train(spec, tick=told.append, folder=tmp_path)
    assert arrays["trains"].tolist() == [trains]
    assert np.isfinite(arrays["loss"][0, :steps]).all()
    assert not np.isfinite(arrays["loss"][0, steps:]).any()
    assert np.isnan(arrays["loss"][0, steps + 1 :]).all()
    assert np.isfinite(arrays["final_loss"][0]) == (steps == 20)
    assert told == pytest.approx([(step + 1) / 20 for step in range(steps)])
    np.testing.assert_allclose(arrays["chance"], np.log(4), rtol=1e-6)


def test_a_member_that_diverges_does_not_stop_the_others():
    bad = (Member(0, 1e30), Member(0, 0.05), Member(1, 0.05), Member(1, 1e30))
    spec = replace(SPEC, network=SPEC.network.with_norm("none"))
    _, arrays = train(replace(spec, members=bad))
    _, alone = train(replace(spec, members=bad[1:3]))
    assert np.isfinite(arrays["loss"]).all(1).tolist() == [False, True, True, False]
    np.testing.assert_allclose(arrays["loss"][1:3], alone["loss"], rtol=1e-4)
    assert not arrays["trains"][[0, 3]].any()


def test_a_loss_that_is_once_infinite_does_not_count_as_training(monkeypatch):
    steps = iter(range(SPEC.steps))

    def step(self, x, y):
        loss = torch.full((4,), 0.1)
        loss[1] = torch.inf if next(steps) == 5 else 0.1
        return loss

    monkeypatch.setattr(sys.modules["xhat.study.train"]._Training, "_step", step)
    _, arrays = train(SPEC)
    assert arrays["trains"].tolist() == [True, False, True, True]
    np.testing.assert_allclose(arrays["final_loss"], 0.1)


def test_a_run_that_diverges_ends_early_and_keeps_what_was_seen():
    network = VGG.network.with_norm("none")
    spec = replace(
        VGG,
        network=network,
        members=(Member(0, 1e30),),
        steps=30,
        probe=Probe((0, 20), (1.0,)),
        record=RECORD,
    )
    told: list[float] = []
    _, arrays = train(spec, tick=told.append)
    assert len(told) < 10
    assert np.isnan(arrays["loss"][0, -1])
    assert np.isnan(arrays["final_loss"]).all()
    assert not arrays["trains"].any()
    assert arrays["probe_step"].tolist() == [0]
    assert arrays["record_step"][0] == 0


def test_the_deep_linear_network_descends_to_its_target():
    _, arrays = train(replace(LINEAR, members=(Member(0, 2e-5),), steps=200))
    task = LinearRegression((0,))
    np.testing.assert_allclose(arrays["chance"], task.chance.numpy())
    assert arrays["loss"][0, -1] < 0.2 * arrays["loss"][0, 0]
    assert "test_accuracy" not in arrays


# --- the caller's state

NUMPY_NOISE = """
import random
import numpy as np
import torch
from torch import nn


class Net(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * (1 + 0.1 * np.random.rand() + 0.1 * random.random() * torch.rand(()))


def make_model(norm):
    return Net(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def states() -> list:
    numpys = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one is meant
    return [torch.get_rng_state().tolist(), numpys, random.getstate()]


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_generators_and_threads_are_left_alone(write_module, tmp_path, two_threads, fails):
    spec = replace(
        SPEC, network=Network(f"{write_module(NUMPY_NOISE)}:make_model"), members=(Member(0, 0.1, "own"),)
    )
    before = states()
    threads: list[int] = []

    def tick(share: float) -> None:
        threads.append(torch.get_num_threads())
        if fails:
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            train(spec, tick=tick, folder=tmp_path)
    else:
        train(spec, tick=tick, folder=tmp_path)
    assert set(threads) == {1}
    assert torch.get_num_threads() == 2
    assert states() == before


def test_noise_from_numpy_and_python_hangs_on_the_seed(write_module, tmp_path):
    spec = replace(
        SPEC, network=Network(f"{write_module(NUMPY_NOISE)}:make_model"), members=(Member(0, 0.1, "own"),)
    )
    _, first = train(spec, folder=tmp_path)
    random.random()
    _, again = train(spec, folder=tmp_path)
    assert_same_bits(again, first)


# --- networks and data that do not fit


def model_error(write: Callable[[str], str], folder, body: str) -> str:
    text = f"from torch import nn\n\ndef make_model(norm):\n    return {body}\n"
    network = Network(f"{write(text)}:make_model", "none")
    with pytest.raises(ModelError) as caught:
        train(replace(SPEC, network=network, members=(Member(0, 0.1, "own"),)), folder=folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "nn.Linear(5, 10)",
            ["input of shape (32, 1, 8, 8)", "target of shape (32,)", "digits", "RuntimeError"],
        ),
        ("nn.Sequential(nn.Flatten(), nn.Linear(63, 10))", ["input of shape (32, 1, 8, 8)", "63"]),
        ("nn.Sequential(nn.Flatten(), nn.Linear(64, 4))", ["output of shape (32, 4)", "(32, 10) is needed"]),
        ("nn.Conv2d(1, 10, 3)", ["output of shape (32, 10, 6, 6)", "(32, 10) is needed"]),
        ("nn.LSTM(8, 8)", ["input of shape (32, 1, 8, 8)"]),
        ("nn.Flatten()", ["has nothing to train"]),
    ],
)
def test_a_network_that_does_not_fit_is_told_with_both_shapes(write_module, tmp_path, body, words):
    message = model_error(write_module, tmp_path, body)
    for word in (":make_model" if "output" not in words[0] else "network gave an output", *words):
        assert word in message


def test_a_users_layers_of_their_own_kind_need_no_recording(write_module, tmp_path):
    text = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(64, 10))
    def forward(self, x):
        return x.flatten(1) @ self.w

def make_model(norm):
    return Own()
"""
    spec = replace(
        SPEC, network=Network(f"{write_module(text)}:make_model"), members=(Member(0, 0.1, "own"),)
    )
    _, arrays = train(spec, folder=tmp_path)
    assert arrays["loss"][0, -1] < arrays["loss"][0, 0]
    with pytest.raises(UsageError, match="no convolution, linear or normalisation layer to record"):
        train(replace(spec, record=RECORD), folder=tmp_path)


def test_a_batch_larger_than_the_data():
    with pytest.raises(DataError, match="digits has 20 training samples; a batch of 32 does not fit"):
        train(replace(SPEC, data=Data("digits", 20, 20)))


def test_data_are_cut_to_at_most_what_is_asked():
    whole = load("digits")
    assert load_data(Data("digits"), None) == whole
    cut = load_data(Data("digits", train=10**6, test=30), None)
    assert torch.equal(cut.train_x, whole.train_x)
    assert len(cut.test_y) == 30


@pytest.mark.parametrize(("name", "size"), [("fashion-mnist", 14), ("digits", 8)])
def test_images_are_pooled_where_eight_pixels_are_left(name, size):
    whole, pooled = (load_data(Data(name, 20, 20, pool), None) for pool in (1, 2))
    assert pooled.train_x.shape[1:] == (1, size, size)
    if size == 14:
        torch.testing.assert_close(pooled.train_x, F.avg_pool2d(whole.train_x, 2))


def test_what_are_no_images_are_not_pooled(write_module, tmp_path):
    name = write_module("import torch\ndef rows(): return torch.rand(40, 16), torch.arange(40) % 2\n")
    assert load_data(Data(f"{name}:rows", pool=2), tmp_path).train_x.shape[1:] == (16,)
