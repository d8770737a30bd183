"""Recalibrated statistics are those of all values each layer saw, by an independent loop in float64."""

import copy
import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import xhat
from xhat.errors import DataError
from xhat.norms import batch_norms
from xhat.surgery import recalibrate_

from .recalibrating import (
    CASES,
    Batches,
    ByName,
    Residual,
    Shared,
    check,
    convolutional,
    data,
    in_turn,
    mlp,
    oracle,
    randomised,
    same,
    state_of,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads only wait for each other where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("training", [True, False])
def test_as_in_training(make, shape, training):
    model, batches = make().train(training), data(shape)
    names = list(batch_norms(model))
    expected = oracle(model, batches, by_batch=names, watch=names)
    others = {k: v.clone() for k, v in model.state_dict().items() if "running" not in k and "num" not in k}
    result = recalibrate_(model, batches)
    check(model, expected, result)
    assert (result.batches, result.skipped, result.passes, dict(result.kept)) == (4, 0, 1, {})
    assert all(norm.num_batches_tracked == 4 for norm in batch_norms(model).values())
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in others.items())
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)
def test_sequential(make, shape, caplog):
    model, batches = make(), data(shape)
    expected = in_turn(model, batches, batch_norms(model))  # registered in the order of the forward pass
    with caplog.at_level(logging.INFO):
        result = recalibrate_(model, batches, sequential=True)
    # The oracle's own statistics are rounded to float32 on the way, ours too.
    check(model, expected, result, rtol=1e-5)
    depth = 4 if make is Residual else len(expected)
    assert result.passes == depth
    assert f"passes over the batches: {depth}" in caplog.text
    assert all(norm.num_batches_tracked == 4 for norm in batch_norms(model).values())


def test_after_a_sequential_run_each_layer_has_mean_0_and_variance_1_in_evaluation():
    model, batches = Residual().eval(), data((4, 6, 6))
    recalibrate_(model, batches, sequential=True)
    for name, (mean, var, _) in oracle(model, batches, by_batch=(), watch=batch_norms(model)).items():
        norm = batch_norms(model)[name]
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm.running_var.double(), var, rtol=1e-5, atol=1e-5)


def test_a_layer_used_twice_gets_the_statistics_over_all_uses():
    model, batches = randomised(Shared()), data((5,))
    names = ["first", "shared"]
    expected = oracle(model, batches, by_batch=names, watch=names)
    result = recalibrate_(model, batches)
    check(model, expected, result)
    assert result.values == {"first": 14, "shared": 28}
    assert model.shared.num_batches_tracked == 4  # batches, not uses

    model = randomised(Shared())
    first = in_turn(model, batches, ["first"])
    result = recalibrate_(model, batches, sequential=True)
    check(model, first, result)
    model.shared.reset_running_stats()  # while normalising with the batch's it did not matter
    check_shared = oracle(model, batches, by_batch=["shared"], watch=["shared"])["shared"]
    assert result.values["shared"] == 28
    recalibrate_(model, batches, sequential=True)
    torch.testing.assert_close(model.shared.running_var.double(), check_shared[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_inputs_with_float32_statistics(dtype):
    model, batches = convolutional(), data((3, 9, 9))

    def forward(net: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return net(batch)

    names = list(batch_norms(model))
    expected = oracle(model, batches, by_batch=names, watch=names, run=forward)
    check(model, expected, recalibrate_(model, batches, forward=forward))


def test_bfloat16_models_get_their_statistics_rounded_once():
    model, batches = convolutional().bfloat16(), [batch.bfloat16() for batch in data((3, 9, 9))]
    expected = oracle(model, batches, by_batch=["1", "4"], watch=["1", "4"])
    recalibrate_(model, batches)
    for name, (mean, var, _) in expected.items():
        assert torch.equal(batch_norms(model)[name].running_mean, mean.bfloat16())
        assert torch.equal(batch_norms(model)[name].running_var, var.bfloat16())


def test_a_mean_of_1e4():
    model, batches = nn.BatchNorm2d(3), [batch + 1e4 for batch in data((3, 8, 8))]
    check(model, oracle(model, batches, by_batch=[""], watch=[""]), recalibrate_(model, batches), rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_batch_sizes_do_not_matter_to_the_first_layer(sizes, random):
    x = data((3, 4), [sum(sizes)])[0]
    model = nn.BatchNorm1d(3)
    parts = list(x.split(sizes))
    random.shuffle(parts)
    recalibrate_(model, parts)
    values = x.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(model.running_mean.double(), values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.running_var.double(), values.var(1, correction=1), rtol=1e-6, atol=0)


# --- where peers fail


def correlated() -> tuple[Batches, float]:
    """Batches of 2 images whose pixels are nearly one value each; the true unbiased variance."""
    generator = torch.Generator().manual_seed(0)
    x = 1.4 * torch.randn(256, 1, 1, 1, generator=generator) + 0.3 * torch.randn(
        256, 1, 8, 8, generator=generator
    )
    return list(x.split(2)), float(x.double().var())


def test_correlated_pixels_in_batches_of_2():
    batches, truth = correlated()
    model = nn.Sequential(nn.BatchNorm2d(1))
    update_bn(batches, model)
    # The mean of the batches' own variances misses what lies between the batches.
    assert float(model[0].running_var) < 0.8 * truth
    recalibrate_(model, batches)
    assert float(model[0].running_var) == pytest.approx(truth, rel=1e-6)


def test_frozen_layers_stay():
    for freeze in (lambda bn: bn.eval(), lambda bn: xhat.freeze_(bn)):
        model, batches = convolutional().train(), data((3, 9, 9))
        freeze(model[1])
        before = copy.deepcopy(model.state_dict())
        other = copy.deepcopy(model)
        other[1].reset_running_stats()  # of what torch's does below
        expected = oracle(model, batches, by_batch=["4"], watch=["4"])
        result = recalibrate_(model, batches)
        check(model, expected, result)
        assert result.layers == ("4",)
        assert set(result.kept) == {"1"}
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(model.state_dict()[f"1.{name}"], before[f"1.{name}"])
        assert not model[1].training


def test_update_bn_overwrites_a_layer_frozen_by_eval():
    model = convolutional().train()
    model[1].eval()
    before = model[1].running_mean.clone()
    update_bn(data((3, 9, 9)), model)
    assert not torch.equal(model[1].running_mean, before)


def test_batches_of_any_kind():
    batches = data((3,))
    truth = nn.BatchNorm1d(3)
    recalibrate_(truth, batches)
    dicts = [{"image": batch / 2, "scale": torch.tensor(2.0)} for batch in batches]
    with pytest.raises((TypeError, AttributeError)):
        update_bn(dicts, ByName())
    tensors = TensorDataset(torch.cat(batches), torch.zeros(14))
    forms: list[tuple[nn.Module, Iterable[Any], dict[str, Any]]] = [
        (ByName(), dicts, {}),
        (ByName(), iter(dicts), {}),
        (ByName(), [(one, 7) for one in dicts], {}),
        (ByName(), [((batch, torch.ones(())), 7) for batch in batches], {}),
        (ByName(), [{"x": b} for b in batches], {"forward": lambda m, b: m(b["x"], torch.ones(()))}),
        (nn.Sequential(nn.BatchNorm1d(3)), DataLoader(tensors, batch_size=4), {}),
        (nn.Sequential(nn.BatchNorm1d(3)), (batch for batch in batches), {}),
    ]
    for model, form, options in forms:
        result = recalibrate_(model, form, **options)
        (norm,) = batch_norms(model).values()
        torch.testing.assert_close(norm.running_var, truth.running_var)
        assert result.values == {"bn" if isinstance(model, ByName) else "0": 14}


def test_a_loader_shorter_than_the_limit():
    model = nn.BatchNorm1d(3)
    assert recalibrate_(model, data((3,)), limit=200).batches == 4
    assert model.num_batches_tracked == 4
    batches = data((3,))
    recalibrate_(model, batches, limit=2)
    assert model.num_batches_tracked == 2
    check(model, oracle(model, batches[:2], by_batch=[""], watch=[""]), recalibrate_(model, batches, limit=2))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("sequential", [False, True])
def test_one_bad_value_is_told_and_changes_nothing(bad, sequential):
    model, batches = convolutional(), data((3, 9, 9))
    batches[2][1, 0, 4, 4] = bad
    before = state_of(model)
    with pytest.raises(
        DataError, match=r"batch 2: \d+ of 1470 values that reach batch norm '1' are NaN or inf"
    ):
        recalibrate_(model, batches, sequential=sequential)
    assert same(model, before)
    assert model.training


def test_old_statistics_that_are_infinite_are_mended():
    model = nn.BatchNorm1d(3)
    model(torch.full((2, 3), math.inf))
    for _ in range(200):
        model(torch.randn(4, 3))
    assert not model.running_mean.isfinite().any()  # 200 clean batches do not heal it
    result = recalibrate_(model, data((3,)))
    assert model.running_mean.isfinite().all()
    assert math.isnan(result.moved[""].shift_median) or math.isinf(result.moved[""].shift_median)
    assert "(model)" in repr(result)


# --- single values


def test_a_last_batch_of_one_is_left_out_for_all_layers(caplog):
    model, batches = mlp(), data((6,), (4, 3, 1))
    names = ["1", "4"]
    expected = oracle(model, batches[:2], by_batch=names, watch=names)
    result = recalibrate_(model, batches)
    check(model, expected, result)  # layer 1 saw 6 values of the last batch, and leaves them out too
    assert (result.batches, result.skipped) == (2, 1)
    assert "1 of 3 batches were left out" in caplog.text
    assert "batch norm '4' (input (1, 4))" in caplog.text
    assert "skipped batches: 1" in repr(result)


def test_single_values_are_no_hindrance_to_a_sequential_run():
    model, batches = mlp(), data((6,), (1, 1, 1, 4))
    expected = in_turn(model, batches, ["1", "4"])
    result = recalibrate_(model, batches, sequential=True)
    check(model, expected, result, rtol=1e-5)
    assert (result.batches, result.skipped, result.values) == (4, 0, {"1": 42, "4": 7})


def test_only_single_values():
    model = mlp()
    before = state_of(model)
    with pytest.raises(DataError, match=r"each of the 3 batches.*'4' \(input \(1, 4\)\).*sequential=True"):
        recalibrate_(model, data((6,), (1, 1, 1)))
    with pytest.raises(DataError, match="saw one value a channel in all batches together"):
        recalibrate_(model, data((6,), (1,)), sequential=True)
    assert same(model, before)
