import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xhat.data import TensorData
from xhat.errors import ModelError
from xhat.study.tasks import Classification, EnsembleClassification, LinearRegression

CLASSES = 3


def numbered(samples: int = 20, shape: tuple[int, ...] = (2, 2)) -> TensorData:
    """Data of which every value of a sample is its number."""
    x = torch.arange(float(samples)).view(-1, *(1 for _ in shape)).expand(samples, *shape).contiguous()
    y = torch.arange(samples) % CLASSES
    return TensorData("numbered", x, y, x[:7] + 100, y[:7], CLASSES)


def numbers(x: Tensor) -> list[int]:
    return x.flatten(1)[:, 0].int().tolist()


def test_an_epoch_has_whole_batches_of_different_samples():
    task = Classification(numbered(), seed=0, batch_size=6)
    epochs = [[number for _ in range(3) for number in numbers(task.batch(0)[0])] for _ in range(4)]
    assert all(len(set(epoch)) == 18 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_inputs_stay_with_their_targets():
    x, y = Classification(numbered(), seed=3, batch_size=20).batch(0)
    assert x.shape == (20, 2, 2)
    assert [number % CLASSES for number in numbers(x)] == y.tolist()


def test_the_order_hangs_on_the_seed_alone():
    def order(seed: int) -> list[int]:
        task = Classification(numbered(), seed, batch_size=5)
        torch.rand(seed + 7)  # what else is drawn does not matter
        return [number for step in range(8) for number in numbers(task.batch(step)[0])]

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_members_of_an_ensemble_see_what_a_single_network_of_their_seed_sees():
    seeds = (4, 4, 9, 9)
    ensemble = EnsembleClassification(numbered(), seeds, batch_size=5)
    single = {seed: Classification(numbered(), seed, batch_size=5) for seed in set(seeds)}
    for step in range(6):
        x, y = ensemble.batch(step)
        assert x.shape == (2, 4, 5)  # a group a seed, features, samples
        expected = {seed: task.batch(step) for seed, task in single.items()}
        for member, seed in enumerate(seeds):
            assert torch.equal(x[member // 2].T.view(5, 2, 2), expected[seed][0])
            assert torch.equal(y[member], expected[seed][1])


@pytest.mark.parametrize("seeds", [(0, 1, 0, 1), (0, 0, 1), (0, 1, 1)])
def test_members_of_a_seed_must_stand_side_by_side(seeds):
    with pytest.raises(ValueError, match="side by side"):
        EnsembleClassification(numbered(), seeds, batch_size=5)


def test_losses_are_torchs_cross_entropy_member_by_member():
    task = EnsembleClassification(numbered(), (0, 1), batch_size=5)
    _, target = task.batch(0)
    output = torch.randn(2, CLASSES, 5, generator=torch.Generator().manual_seed(0))
    expected = [F.cross_entropy(one.T, aim) for one, aim in zip(output, target, strict=True)]
    torch.testing.assert_close(task.losses(output, target), torch.stack(expected))


def test_chance_is_the_loss_of_equal_guesses():
    single, ensemble = Classification(numbered(), 0, 5), EnsembleClassification(numbered(), (0, 1), 5)
    target = torch.tensor([0, 1, 2])
    assert single.chance.tolist() == pytest.approx([math.log(3)])
    torch.testing.assert_close(single.losses(torch.zeros(3, 3), target), single.chance)
    torch.testing.assert_close(ensemble.losses(torch.zeros(2, 3, 3), target.expand(2, 3)), ensemble.chance)


class Last(nn.Module):
    """Answers class number mod 3 for the first samples of a batch, else 0; in training always 0."""

    def __init__(self, right: int, *, dim: int) -> None:
        super().__init__()
        self.right, self.dim = right, dim

    def forward(self, x: Tensor) -> Tensor:
        number = (x.flatten(1)[:, 0] if self.dim == 1 else x[0, 0]) - 100
        answer = (number % CLASSES).long() * (number < self.right) * (not self.training)
        scores = F.one_hot(answer, CLASSES).float()
        return scores if self.dim == 1 else scores.T.expand(2, CLASSES, -1)


@pytest.mark.parametrize("right", [0, 4, 7])
def test_accuracy_is_counted_on_the_test_set_in_evaluation_mode(right):
    # numbers 0 3 6 have class 0, which all answers of 0 get right
    expected = len({0, 3, 6} | set(range(right))) / 7
    single = Classification(numbered(), 0, 5).evaluate(Last(right, dim=1).train())
    ensemble = EnsembleClassification(numbered(), (0, 1), 5).evaluate(Last(right, dim=2).train())
    np.testing.assert_allclose(single["test_accuracy"], [expected])
    np.testing.assert_allclose(ensemble["test_accuracy"], [expected, expected])


def test_accuracy_counts_every_sample_of_many_chunks():
    data = numbered(samples=1201)
    data = TensorData("long", data.train_x, data.train_y, data.train_x + 100, data.train_y, CLASSES)
    assert Classification(data, 0, 5).evaluate(Last(1201, dim=1))["test_accuracy"] == [1.0]
    assert Classification(data, 0, 5).evaluate(Last(0, dim=1))["test_accuracy"] == pytest.approx([401 / 1201])


@pytest.mark.parametrize("shape", [(5, 2), (4, 3), (5, 3, 1), (5,)])
def test_an_output_of_a_wrong_shape_is_named_beside_what_is_needed(shape):
    with pytest.raises(ModelError) as caught:
        Classification(numbered(), 0, 5).losses(torch.zeros(shape), torch.zeros(5, dtype=torch.long))
    for part in (f"output of shape {shape}", "5 inputs of shape (2, 2)", "3 classes", "(5, 3) is needed"):
        assert part in str(caught.value)


def test_more_outputs_than_classes_are_taken():
    loss = Classification(numbered(), 0, 5).losses(torch.zeros(5, 10), torch.zeros(5, dtype=torch.long))
    assert loss.tolist() == pytest.approx([math.log(10)])


def test_the_fixed_batch_is_the_first_of_the_training_set():
    assert numbers(Classification(numbered(), 0, 5).fixed(4)) == [0, 1, 2, 3]
    assert EnsembleClassification(numbered(), (0, 1), 5).fixed(4).shape == (1, 4, 4)
    assert EnsembleClassification(numbered(), (0, 1), 5).fixed(4)[0, 0].tolist() == [0, 1, 2, 3]


def test_linear_regression_is_a_sum_of_squares_on_data_of_each_seed():
    task = LinearRegression((5, 6, 5))
    x, target = task.batch(0)
    assert x.shape == target.shape == (3, 10, 1000)
    assert torch.equal(x[0], x[2])
    assert not torch.equal(x[0], x[1])
    # the target is linear in the input: least squares find the map exactly
    map_ = torch.linalg.lstsq(x[1].T.double(), target[1].T.double()).solution.T
    torch.testing.assert_close(map_ @ x[1].double(), target[1].double(), rtol=1e-4, atol=1e-4)
    output = target + torch.tensor([0.0, 0.1, 0.2]).view(3, 1, 1)
    torch.testing.assert_close(
        task.losses(output, target), torch.tensor([0.0, 0.01, 0.04]) * 10_000, rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(task.losses(torch.zeros_like(x), target), task.chance)
    assert task.fixed(7).shape == (3, 10, 7)
    assert task.evaluate(nn.Identity()) == {}


# --- assessing a network on the way


def scores(x: Tensor) -> Tensor:
    """Scores that hang on the sample's number alone: the right class where it is below 105."""
    number = x.flatten(1)[:, 0]
    wanted = torch.where(number % 100 < 5, number % 100 % CLASSES, (number % 100 + 1) % CLASSES)
    return 2.0 * F.one_hot(wanted.long(), CLASSES).float()


class Single(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return scores(x)


class Pair(nn.Module):
    """Two members: the scores, and scores all alike."""

    def forward(self, x: Tensor) -> Tensor:
        found = scores(x[0].T).T
        return torch.stack([found, torch.zeros_like(found)])


@pytest.mark.parametrize(("train", "right", "count"), [(None, 5, 7), (4, 4, 4), (8, 5, 8)])
def test_assess_counts_and_averages_on_test_or_first_training_samples(train, right, count):
    data = numbered()
    x, y = (data.test_x, data.test_y) if train is None else (data.train_x[:train], data.train_y[:train])
    accuracy, loss = Classification(data, 0, 5).assess(Single(), train=train)
    assert accuracy.tolist() == [right / count]
    torch.testing.assert_close(loss, F.cross_entropy(scores(x), y)[None])
    both, losses = EnsembleClassification(data, (0, 1), 5).assess(Pair(), train=train)
    assert both[0] == right / count
    torch.testing.assert_close(losses, torch.tensor([float(loss), math.log(CLASSES)]))


def test_assess_leaves_the_mode_to_the_caller():
    class Mode(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert self.training
            return scores(x)

    Classification(numbered(), 0, 5).assess(Mode().train(), train=None)


def test_assess_of_the_linear_regression_is_its_loss():
    task = LinearRegression((0, 1))
    accuracy, loss = task.assess(nn.Identity(), train=None)
    assert accuracy.isnan().all()
    torch.testing.assert_close(loss, task.losses(*task.batch(0)))
