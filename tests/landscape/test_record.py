"""Recordings equal what hooks and numpy find, and leave nothing behind."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from tests.landscape.everything import Counting, look_around, make
from xhat.errors import UsageError
from xhat.landscape import Position, along_gradient, record
from xhat.landscape.recording import QUANTILES
from xhat.models import MLP, VGG, Ensemble

COLUMNS = ["step", "layer", "side", "member", "mean", "std", "p15", "p50", "p85", "dead", "drift"]


class Sequences(nn.Module):
    """Linear layers and norms on (N, L, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 6)
        self.norm = nn.LayerNorm(6)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.rms = nn.RMSNorm(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.norm(self.embed(x)))
        out: Tensor = self.head(self.rms(x)).mean(1)
        return out


class Images(nn.Module):
    """Convolutions in a list, with every norm for images."""

    def __init__(self) -> None:
        super().__init__()
        norms = (nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(4 if i else 1, 4, 3, padding=1), "norm": norm})
            for i, norm in enumerate(norms)
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block["norm"](block["conv"](x)).relu()  # type: ignore[index, operator]
        out: Tensor = self.head(x.mean((2, 3)))
        return out


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "images": (
        Images,
        (6, 1, 5, 6),
        [
            "blocks.0.conv",
            "blocks.0.norm",
            "blocks.1.conv",
            "blocks.1.norm",
            "blocks.2.conv",
            "blocks.2.norm",
            "head",
        ],
    ),
    "sequences": (Sequences, (6, 4, 3), ["embed", "norm", "rms", "head"]),
    "mlp": (
        lambda: MLP(5, 3, depth=2, width=8),
        (9, 5),
        ["hidden.0.0", "hidden.0.1", "hidden.1.0", "hidden.1.1", "output"],
    ),
    "mlp-float64": (
        lambda: MLP(5, 3, depth=1, width=8, norm="layer").double(),
        (9, 5),
        ["hidden.0.0", "hidden.0.1", "output"],
    ),
}


def build(make_model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make_model()


def batch(model: nn.Module, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    return x.to(next(model.parameters()).dtype)


def captured(model: nn.Module, x: Tensor, names: list[str]) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    """Layer and side to values of shape (units, samples), by hooks of the test's own on a copy."""
    found: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
    model = copy.deepcopy(model).train()

    def keep(name: str, side: str, value: Tensor, last: bool) -> None:
        values = np.moveaxis(value.detach().double().numpy(), -1 if last else 1, 0)
        found[name, side] = values.reshape(len(values), -1)

    for name in names:
        layer = model.get_submodule(name)
        last = isinstance(layer, nn.Linear | nn.LayerNorm | nn.RMSNorm)
        layer.register_forward_pre_hook(lambda _, args, n=name, k=last: keep(n, "input", args[0], k))  # type: ignore[misc]
        layer.register_forward_hook(lambda _, __, out, n=name, k=last: keep(n, "output", out, k))  # type: ignore[misc]
    model(x)
    return found


def check(position: Position, index: int, member: int, values: np.ndarray[Any, Any]) -> None:
    """Compare one snapshot of a position with values (units, samples)."""
    assert position.mean[index, member] == pytest.approx(values.mean(1), abs=1e-5)
    assert position.std[index, member] == pytest.approx(values.std(1), abs=1e-5)
    assert position.dead[index, member] == pytest.approx(np.mean(np.ptp(values, axis=1) == 0))
    assert position.pooled[index, member] == pytest.approx(np.quantile(values, QUANTILES), abs=1e-4)
    chosen = np.linspace(0, len(values) - 1, min(8, len(values))).round().astype(int)
    expected = np.quantile(values[chosen], QUANTILES, axis=1).T
    assert position.units[index, member] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("mode", ["pass", "snapshot"])
@pytest.mark.parametrize(("make_model", "shape", "names"), MODELS.values(), ids=MODELS)
def test_positions_equal_numpy_on_what_hooks_see(
    make_model: Callable[[], nn.Module], shape: tuple[int, ...], names: list[str], mode: str
) -> None:
    model = build(make_model)
    batches = [batch(model, shape, seed) for seed in (1, 2)]
    expected = [captured(model, x, names) for x in batches]
    with record(model, every=1 if mode == "pass" else None) as recording:
        for x in batches:
            model(x) if mode == "pass" else recording.snapshot(x)
    positions = recording.positions()
    assert [(p.layer, p.side) for p in positions] == [(n, s) for n in names for s in ("input", "output")]
    assert recording.steps == [0, 1]
    for position in positions:
        units = len(expected[0][position.layer, position.side])
        assert position.mean.shape == position.std.shape == (2, 1, units)
        assert position.dead.shape == (2, 1)
        assert position.pooled.shape == (2, 1, 21)
        assert position.units.shape == (2, 1, min(8, units), 21)
        for index in (0, 1):
            check(position, index, 0, expected[index][position.layer, position.side])


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("norm", ["batch", "none", "layer"])
def test_an_ensemble_is_recorded_member_by_member(norm: str, groups: int) -> None:
    torch.manual_seed(0)
    modules = [MLP(5, 3, depth=2, width=8, norm=norm) for _ in range(4)]
    ensemble, x = Ensemble(modules), torch.randn(groups, 5, 9)
    with record(ensemble) as recording:
        ensemble(x)
    for member, module in enumerate(modules):
        names = [
            name
            for name, m in module.named_modules()
            if isinstance(m, nn.Linear | nn.BatchNorm1d | nn.LayerNorm)
        ]
        expected = captured(module, x[member * groups // 4].t(), names)
        for position in recording.positions():
            check(position, 0, member, expected[position.layer, position.side])
    assert len(recording.positions()) == 2 * len(names)
    assert recording.to_frame()["member"].nunique() == 4


class Odd(nn.Module):
    """A user's model that happens to have an attribute of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.members, self.layer = 5, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def test_members_are_an_ensembles_own() -> None:
    with record(model := Odd()) as recording:
        model(torch.ones(4, 3))
    assert [p.mean.shape for p in recording.positions()] == [(1, 1, 3), (1, 1, 2)]


# Which passes count.


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3]), (9, [0]), (None, [])]
)
def test_every_counts_training_passes(every: int | None, expected: list[int]) -> None:
    model = MLP(5, 3, depth=1, width=4)
    x = torch.arange(25.0).view(5, 5)
    with record(model, every=every) as recording:
        for step in range(5):
            model.train()(x + step)
            model.eval()(x - 1000)
    assert recording.steps == expected
    if expected:
        first = recording.positions()[0]
        assert first.mean[:, 0, 0].tolist() == [10 + step for step in expected]
        assert recording.to_frame()["step"].unique().tolist() == expected


def test_probes_are_no_training() -> None:
    model, x = MLP(5, 3, depth=1, width=4), torch.randn(6, 5)
    with record(model) as recording:
        model(x)
        along_gradient(model, lambda out, _: out.square().mean(), (x, x), steps=(0.1, 0.2))
        recording.snapshot(x, step=100)
        model(x)
    assert recording.steps == [0, 100, 1]
    assert all(len(p.mean) == 3 for p in recording.positions())


def test_recording_inside_a_probe() -> None:
    from xhat.unchanged import unchanged

    model, x = MLP(5, 3, depth=1, width=4), torch.randn(6, 5)
    with unchanged(model), record(model) as recording:
        model(x)
    assert recording.steps == [0]


def test_snapshots_are_numbered() -> None:
    model, x = MLP(5, 3, depth=1, width=4), torch.randn(6, 5)
    with record(model, every=None) as recording:
        recording.snapshot(x)
        recording.snapshot(x)
        recording.snapshot(x, 10)
        recording.snapshot(x)
    assert recording.steps == [0, 1, 10, 11]


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.error: type[BaseException] | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.error:
            raise self.error
        out: Tensor = self.last(x)
        return out


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_pass_that_fails_records_nothing(error: type[BaseException]) -> None:
    model, x = Fails(), torch.randn(4, 3)
    with record(model) as recording:
        model(x)
        model.error = error
        with pytest.raises(error):
            model(x)
        with pytest.raises(error):
            recording.snapshot(x)
        model.error = None
        model(x)
    assert recording.steps == [0, 2]
    assert [len(p.mean) for p in recording.positions()] == [2] * 4
    assert hooks(model) == 0


def test_an_evaluation_after_ctrl_c_is_not_recorded() -> None:
    model, x = Fails(), torch.randn(4, 3)
    with record(model) as recording:
        model.error = KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt):
            model(x)
        model.error = None
        along_gradient(model, lambda out, _: out.square().mean(), (x, x), steps=(0.1,))
        model.eval()(x)
        assert recording.steps == []
        model.train()(x)
    assert recording.steps == [1]
    assert hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_removed_when_the_block_is_left(error: type[BaseException]) -> None:
    model = Fails()
    own = model.first.register_forward_hook(lambda *_: None)
    model.error = error
    with pytest.raises(error), record(model):
        model(torch.randn(4, 3))
    assert hooks(model) == 1
    own.remove()
    with record(model):
        assert hooks(model) == 2  # the root's: layers have theirs only during a recorded pass
    assert hooks(model) == 0


def test_nothing_is_recorded_after_the_block() -> None:
    model, x = MLP(5, 3), torch.randn(6, 5)
    with record(model) as recording:
        model(x)
    model(x)
    assert recording.steps == [0]


def test_snapshot_leaves_the_model_as_it_was() -> None:
    model: Counting = make()
    before = look_around(model)
    with record(model, every=None) as recording:
        between = look_around(model)
        recording.snapshot(torch.randn(4, 3))
        assert recording.steps == [0]
        after = look_around(model)
    # torch.randn above has drawn, so only the model is compared.
    assert after[0] == between[0] == before[0] == look_around(model)[0]


def test_snapshot_keeps_the_random_state() -> None:
    model, x = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5), nn.BatchNorm1d(5)).eval(), torch.ones(6, 5)
    before = look_around(model)
    with record(model, every=None) as recording:
        recording.snapshot(x)
        recording.snapshot(x)
    assert look_around(model) == before
    first, second = recording.positions()[2].mean  # dropout draws the same for each snapshot
    assert first.tolist() == second.tolist()


def test_snapshot_is_in_training_mode() -> None:
    model, x = nn.Sequential(nn.BatchNorm1d(3)).eval(), torch.randn(50, 3) * 9 + 5
    with record(model, every=None) as recording:
        recording.snapshot(x)
    output = recording.positions()[1]
    assert output.mean == pytest.approx(0, abs=1e-5)
    assert output.std == pytest.approx(1, abs=1e-3)


def test_training_goes_on_as_without_a_recording() -> None:
    weights = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model, x = VGG(1, 3, width=2), torch.randn(8, 1, 8, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def train(
            model: nn.Module = model, x: Tensor = x, step: Callable[[], object] = optimizer.step
        ) -> None:
            for _ in range(3):
                model(x).square().sum().backward()
                step()

        if recorded:
            with record(model) as recording:
                recording.snapshot(x)
                train()
        else:
            train()
        weights.append(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


# Which layers.


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.only_sometimes, self.skip = nn.Linear(3, 3), nn.Linear(3, 3), False

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.layer(x))
        out: Tensor = x if self.skip else self.only_sometimes(x)
        return out


def test_a_layer_used_twice_is_recorded_at_its_first_use() -> None:
    model, x = Twice(), torch.randn(7, 3)
    with record(model, layers=["layer"]) as recording:
        model(x)
    inputs, outputs = recording.positions()
    check(inputs, 0, 0, x.t().double().numpy())
    check(outputs, 0, 0, model.layer(x).t().detach().double().numpy())


def test_a_layer_that_some_passes_skip_is_left_out() -> None:
    model, x = Twice(), torch.randn(7, 3)
    with record(model) as recording:
        model(x)
        model.skip = True
        model(x)
    assert {p.layer for p in recording.positions()} == {"layer"}


@pytest.mark.parametrize("mode", ["pass", "snapshot"])
@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.BatchNorm1d(3)])
def test_a_model_that_is_one_layer(model: nn.Module, mode: str) -> None:
    x = torch.randn(7, 3)
    expected = captured(model, x, [""])
    with record(model) as recording:
        model(x) if mode == "pass" else recording.snapshot(x)
    positions = recording.positions()
    assert [(p.layer, p.side) for p in positions] == [("", "input"), ("", "output")]
    for position in positions:
        check(position, 0, 0, expected["", position.side])


def test_layers_by_name() -> None:
    model = MLP(5, 3, depth=2, width=4, norm="none")
    with record(model, layers=["hidden.1.2", "", "hidden.0.0"]) as recording:
        out = model(torch.randn(6, 5))
    names = [(p.layer, p.side) for p in recording.positions()]
    assert names == [
        ("", "input"), ("hidden.0.0", "input"), ("hidden.0.0", "output"),
        ("hidden.1.2", "input"), ("hidden.1.2", "output"), ("", "output"),
    ]  # fmt: skip
    check(recording.positions()[-1], 0, 0, out.detach().t().double().numpy())


def test_outputs_that_are_no_tensor_are_passed_over() -> None:
    model = nn.Sequential(nn.LSTM(3, 4, batch_first=True))
    with record(model, layers=["0"]) as recording:
        model(torch.randn(5, 6, 3))
    assert [(p.layer, p.side) for p in recording.positions()] == [("0", "input")]


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out": self.layer(input=batch["x"])}


def test_dicts_and_keywords() -> None:
    model, x = Keywords(), {"x": torch.randn(5, 3)}
    with record(model) as recording:
        model(batch=x)
        recording.snapshot(x)
    assert recording.steps == [0, 1]
    assert ("layer", "output") in [(p.layer, p.side) for p in recording.positions()]


def test_a_network_that_diverges() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with record(model) as recording:
        for value in (1.0, 3e38, math.inf, math.nan):
            model(torch.full((5, 3), value) * torch.arange(5.0)[:, None])
    frame = recording.to_frame()
    assert len(frame) == 4 * 4
    late = frame[(frame["layer"] == "1") & (frame["step"] >= 2)]
    assert late["drift"].isna().all()
    assert not np.isfinite(late["mean"]).any()


# Percentiles, drift and frames.


def position(values: Tensor) -> Position:
    """Recorded input of shape (R, N, C), at a layer that does nothing."""
    model = nn.Sequential(nn.Identity())
    with record(model, layers=["0"], units=99) as recording:
        for x in values:
            model(x)
    return recording.positions()[0]


@settings(deadline=None, max_examples=30)
@given(st.floats(-50, 50), st.integers(0, 1000))
def test_drift_of_a_shift(shift: float, seed: int) -> None:
    # All values + c: W1 = |c| in every unit, and the std is unchanged.
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = position(torch.stack([x, x + shift, x + shift]))
    assert found.drift()[:, 0] == pytest.approx([abs(shift) / x.numpy().std(), 0], abs=1e-5, rel=1e-5)


def test_drift_of_a_scale() -> None:
    # x to 3x, uniform on [-1, 1]: W1 = ∫|2(2u - 1)|du = 1, over the mean of the stds s and 3s.
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None]
    found = position(torch.stack([x, 3 * x]))
    assert found.drift()[0, 0] == pytest.approx(1 / (2 * x.numpy().std()))


@pytest.mark.parametrize("kind", ["normal", "exponential", "uniform", "bimodal"])
def test_drift_is_the_wasserstein_distance(kind: str) -> None:
    generator = np.random.default_rng(0)
    draw = {
        "normal": lambda: generator.normal(1, 2, (1000, 3)),
        "exponential": lambda: generator.exponential(3, (1000, 3)),
        "uniform": lambda: generator.uniform(-3, 1, (1000, 3)),
        "bimodal": lambda: generator.normal(0, 0.5, (1000, 3)) + generator.choice([-2, 2], (1000, 3)),
    }[kind]
    before, after = generator.normal(0, 1, (1000, 3)), draw()
    found = position(torch.from_numpy(np.stack([before, after])))
    distance = np.mean([stats.wasserstein_distance(before[:, c], after[:, c]) for c in range(3)])
    spread = (before.std() + after.std()) / 2
    # 21 levels, the extremes among them, all of one weight: a long tail counts for too much.
    tolerance = 0.25 if kind == "exponential" else 0.12
    assert found.drift()[0, 0] == pytest.approx(distance / spread, rel=tolerance)


def test_drift_of_constants() -> None:
    still = position(torch.ones(2, 5, 1))
    moving = position(torch.stack([torch.zeros(5, 1), torch.ones(5, 1)]))
    assert still.drift().tolist() == [[0]]
    assert np.isnan(moving.drift()).all()  # moved, by no spread's measure


def test_one_snapshot_has_no_drift() -> None:
    assert position(torch.randn(1, 5, 2)).drift().shape == (0, 1)


def test_percentiles() -> None:
    x = torch.arange(101.0).expand(2, 101)[..., None] * torch.tensor([1.0, 2.0])[:, None, None]
    found = position(x)
    assert found.percentile(15)[:, 0].tolist() == pytest.approx([15, 30])
    assert found.percentile(0)[:, 0].tolist() == [0, 0]
    assert found.percentile(100)[:, 0].tolist() == [100, 200]
    assert found.percentile(47.5)[0, 0] == pytest.approx(47.5)


def test_own_quantiles() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(101, 3)
    with record(model, quantiles=(0.25, 0.5, 0.75), units=1) as recording:
        model(x)
    found = recording.positions()[0]
    assert recording.quantiles == (0.25, 0.5, 0.75)
    assert found.pooled.shape == (1, 1, 3)
    assert found.pooled[0, 0] == pytest.approx(np.quantile(x.numpy(), [0.25, 0.5, 0.75]), abs=1e-4)
    frame = recording.to_frame()
    assert frame["p50"].notna().all()
    assert frame["p15"].isna().all()  # not kept, and not made up


def test_to_frame() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(40, 3)
    with record(model) as recording:
        model(x)
        model(x + 1)
    frame = recording.to_frame()
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 2 * 2
    inputs = frame[frame["side"] == "input"].reset_index()
    values = x.numpy()
    assert inputs["mean"].tolist() == pytest.approx([values.mean(), values.mean() + 1], abs=1e-5)
    assert inputs["std"][0] == pytest.approx(values.std(0).mean(), abs=1e-5)
    for percent in (15, 50, 85):
        assert inputs[f"p{percent}"][0] == pytest.approx(np.percentile(values, percent), abs=1e-3)
    assert inputs["dead"].tolist() == [0, 0]
    assert math.isnan(inputs["drift"][0])
    assert inputs["drift"][1] == pytest.approx(1 / values.std(), rel=1e-4)


def test_nothing_seen() -> None:
    with record(nn.Linear(3, 2)) as recording:
        pass
    assert recording.positions() == ()
    assert list(recording.to_frame().columns) == COLUMNS


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-layer": ({"layers": ["hidden.7"]}, "no layer 'hidden.7'; it has hidden, hidden.0"),
    "every-0": ({"every": 0}, "every must be a positive number"),
    "every-negative": ({"every": -2}, "every must be a positive number"),
    "units-0": ({"units": 0}, "units must be a positive number"),
    "no-quantiles": ({"quantiles": ()}, "ascending levels between 0 and 1"),
    "falling-quantiles": ({"quantiles": (0.9, 0.1)}, "ascending levels"),
    "negative-quantile": ({"quantiles": (-0.1, 0.5)}, "ascending levels"),
    "percent": ({"quantiles": (15, 50, 85)}, "ascending levels"),
    "no-layers": ({"model": nn.Sequential(nn.ReLU())}, "no convolution, linear or normalisation layer"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_usage(changes: dict[str, Any], message: str) -> None:
    arguments = {"model": MLP(5, 3, depth=1), **changes}
    with pytest.raises(UsageError, match=message), record(**arguments):
        pass
    assert hooks(arguments["model"]) == 0
