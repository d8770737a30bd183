"""What the doctor observes equals independent computations in float64, and leaves the model as it was."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from tests.doctor.trained import NAMES, batches, healthy
from xhat import recalibrate_
from xhat.doctor._outputs import KEPT, gap, keep, score, spread
from xhat.doctor._seen import Collected, by_sample
from xhat.doctor._split import mixed, picked, take
from xhat.doctor.observe import observe
from xhat.errors import DataError, ModelError
from xhat.norms import batch_norms


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def inputs_of_norms(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each norm gets in training mode, on a copy with hooks of the test's own."""
    model = copy.deepcopy(model).train()
    found: dict[str, Tensor] = {}
    for name, norm in batch_norms(model).items():
        norm.register_forward_pre_hook(
            lambda _, args, n=name: found.__setitem__(n, args[0].detach().double())
        )
    model(x)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_what_each_norm_sees_in_training(name):
    model, given = healthy(name)
    given = given[:3]
    seen = observe(model, given).seen
    inputs = [inputs_of_norms(model, x) for x, _ in given]
    for norm, part in seen.items():
        values = torch.cat([found[norm].transpose(0, 1).flatten(1) for found in inputs], 1)
        moments = part.moments()
        scale = values.std(1)
        assert moments.count == values.shape[1]
        assert ((moments.mean - values.mean(1)).abs() <= 1e-4 * scale + 1e-6).all()
        assert moments.variance(unbiased=True) == pytest.approx(values.var(1), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_pooled_outputs_are_those_of_a_recalibrated_model(name):
    model, given = healthy(name)
    found = observe(model, given)
    with torch.no_grad():
        before = [keep(model(x), len(x)) for x, _ in given]
        recalibrate_(model, given)
        after = [keep(model.eval()(x), len(x)) for x, _ in given]
    expected = gap(before, after, spread(after))
    assert found.running_to_pooled is not None
    assert expected is not None
    assert found.running_to_pooled.relative == pytest.approx(expected.relative, rel=1e-2, abs=1e-4)
    assert found.scores["pooled"].accuracy == pytest.approx(
        np.mean(
            [
                float((a[0][:, :, 0].argmax(1) == y).double().mean())
                for a, (_, y) in zip(after, given, strict=True)
            ]
        ),
        abs=0.005,
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_out_bit_for_bit(training):
    model, given = healthy("resnet")
    model.train(training)
    before, random = state_of(model), torch.get_rng_state()
    observe(model, given)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training is training for module in model.modules())
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_exception_changes_nothing():
    model, given = healthy("mlp")
    before = state_of(model)
    with pytest.raises(ModelError, match="batch 1"):
        observe(model, [given[0], (torch.zeros(4, 3), torch.zeros(4))])
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert all("forward" not in vars(module) for module in model.modules())
    with pytest.raises(DataError):
        observe(model, [])


def test_frozen_norms_keep_their_statistics():
    model, given = healthy("mlp")
    first = next(iter(batch_norms(model)))
    model.train()
    model.get_submodule(first).eval()
    found = observe(model, given)
    assert found.frozen == {first}
    assert set(found.seen) == set(batch_norms(model)) - {first}


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e5])
def test_moments_by_sample_hold_far_from_zero(mean):
    x = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0)) + mean
    a, q = by_sample(x, 6)
    exact = x.double().flatten(2)
    assert a == pytest.approx(exact.mean(2), rel=1e-7, abs=1e-7)
    variance = (q - a.square()).numpy()
    assert variance == pytest.approx(exact.var(2, correction=0).numpy(), rel=1e-2, abs=1e-3)


def test_tokens_of_one_text_are_one_observation():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    a, q = by_sample(x, 2)
    assert a == pytest.approx(x.double().view(2, 3, 4).mean(1))
    assert q == pytest.approx(x.double().square().view(2, 3, 4).mean(1))


def test_sums_give_the_variances_over_samples():
    parts = [torch.randn(n, 3, 4, generator=torch.Generator().manual_seed(n)).double() + 2 for n in (5, 8)]
    collected = Collected()
    for part in parts:
        collected.begin()
        collected.add(part, len(part))
    seen = collected.seen()
    assert seen is not None
    x = torch.cat(parts)
    of_a, of_q = seen.sample_variances()
    assert of_a == pytest.approx(x.mean(2).var(0))
    about = (x - x.mean((0, 2))[None, :, None]).square().mean(2)
    assert of_q == pytest.approx(about.var(0))


def test_batches_of_mixed_samples_hold_each_sample_once():
    given = [(torch.arange(n)[:, None] + 100.0 * n, torch.arange(n) + 100 * n) for n in (3, 5, 4)]
    found = mixed(given, 3)
    assert found is not None
    made, sources = found
    assert [len(x) for x, _ in made] == [3, 5, 4]
    assert all(torch.equal(x[:, 0].long(), y) for x, y in made)
    assert sorted(torch.cat([y for _, y in made]).tolist()) == sorted(
        torch.cat([y for _, y in given]).tolist()
    )
    assert mixed([(torch.zeros(20, 3),), (torch.zeros(20, 4),)], 2) is None
    outputs = [[x] for x, _ in given]
    assert all(torch.equal(picked(outputs, picks)[0], x) for picks, (x, _) in zip(sources, made, strict=True))
    assert take("text", torch.tensor([0])) is None


def test_outputs_of_any_kind_are_kept_small():
    kept = keep(
        {"a": torch.zeros(2, 5), "b": [torch.zeros(2, 3, 100, 100), torch.zeros(2, dtype=torch.int64)]}, 2
    )
    assert [tuple(part.shape[:2]) for part in kept] == [(2, 5), (2, 3)]
    assert all(part[0].numel() <= KEPT for part in kept)
    assert keep(torch.zeros(()), 2) == []


def test_a_gap_is_relative_to_the_spread_over_samples():
    x = torch.randn(500, 3, 1, generator=torch.Generator().manual_seed(0))
    spreads = spread([[10 * x]])
    assert spreads == pytest.approx([10.0], rel=0.1)
    found = gap([[10 * x]], [[10 * x + 5]], spreads)
    assert found is not None
    assert found.relative == pytest.approx(0.5, rel=0.1)
    assert found.flips == 0
    worst = gap([[10 * x]], [[x * torch.nan]], spreads)
    assert worst is not None
    assert worst.relative == torch.inf
    assert score([[x]], [torch.full((500,), 7)]) is None


def test_random_evaluation_and_odd_batches_are_told_apart():
    model, _ = healthy("mlp")
    found = observe(model, batches(size=64, count=2) + batches(size=1, count=1))
    assert found.samples == (64, 64, 1)
    assert [values[-1] for values in found.values.values()] == [1] * 4
    assert all(len(part.samples) == 2 for part in found.seen.values())
    assert found.alone.parts is not None
    assert found.alone.parts.relative < 1e-4


@dataclass
class Pair:
    image: torch.Tensor
    label: torch.Tensor
    name: str = "pair"


def test_data_classes_are_split_and_mixed_and_unknown_objects_are_left():
    given = [Pair(torch.arange(n)[:, None] + 100.0 * n, torch.arange(n) + 100 * n) for n in (3, 5, 4)]
    half = take(given[1], torch.tensor([4, 0]))
    assert (half.image[:, 0].tolist(), half.label.tolist(), half.name) == ([504.0, 500.0], [504, 500], "pair")
    assert len(given[1].image) == 5
    found = mixed(given, 3)
    assert found is not None
    assert [len(each.image) for each in found[0]] == [3, 5, 4]
    assert all(torch.equal(each.image[:, 0].long(), each.label) for each in found[0])
    assert take(SimpleNamespace(x=torch.zeros(4, 2)), torch.tensor([0])) is None
    assert take(pack_sequence([torch.zeros(4, 2), torch.zeros(3, 2)]), torch.tensor([0])) is None
