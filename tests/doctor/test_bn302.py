"""BN302: running statistics that are not those of the data."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.doctor.cases import of
from tests.doctor.trained import NAMES, accuracy, batches, healthy, trained
from xhat import diagnose, recalibrate_
from xhat.doctor._outputs import Score
from xhat.doctor.finding import Severity
from xhat.doctor.observe import Observed, observe
from xhat.doctor.rules.bn302_statistics_differ import _falls
from xhat.norms import batch_norms


def stale(model: nn.Module) -> None:
    for norm in batch_norms(model).values():
        norm.running_mean.mul_(0.5)
        norm.running_var.mul_(2.0)


@pytest.mark.parametrize("name", NAMES)
def test_stale_statistics_are_found_and_nothing_else(name):
    model, given = healthy(name)
    before = accuracy(model)
    stale(model)
    found = diagnose(model, given)
    (finding,) = found.at_least("warning")
    assert finding.code == "BN302"
    assert finding.repairable
    assert finding.evidence["of_channels"] == sum(n.num_features for n in batch_norms(model).values())
    assert finding.evidence["channels"] > 0.8 * finding.evidence["of_channels"]
    assert finding.evidence["accuracy_running"] < finding.evidence["accuracy_pooled"]
    recalibrate_(model, given)
    assert of(diagnose(model, given), "BN302") == ()
    assert accuracy(model) == pytest.approx(before, abs=0.04)


def test_numbers_and_names_are_those_of_the_layer():
    model, given = healthy("mlp")
    name = list(batch_norms(model))[2]
    norm = batch_norms(model)[name]
    norm.running_var.mul_(6.0)
    (finding,) = diagnose(model, given).at_least("warning")
    assert finding.module == name
    assert finding.evidence["variance_ratio"][0] == pytest.approx(6.0, rel=0.3)
    assert abs(finding.evidence["mean_difference"][0]) < 0.3
    norm.running_var.div_(6.0)
    norm.running_mean.add_(2 * norm.running_var.sqrt())
    (finding,) = diagnose(model, given).at_least("warning")
    assert finding.evidence["mean_difference"][0] == pytest.approx(2.0, abs=0.4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(("size", "count"), [(16, 2), (16, 16), (64, 4), (256, 2)])
def test_a_healthy_model_has_no_finding(name, part, size, count):
    found = diagnose(trained(name), batches(size=size, count=count, part=part, seed=3))
    assert found.at_least("warning") == ()


def test_a_difference_beyond_chance_without_effect_is_none():
    """Channels that nothing reads may have any statistics."""
    model, given = healthy("mlp")
    norm = batch_norms(model)[list(batch_norms(model))[1]]
    with torch.no_grad():
        norm.weight[:2] = 0.0
    recalibrate_(model, given)
    norm.running_mean[:2] += 3.0
    assert of(diagnose(model, given), "BN302") == ()


def test_an_effect_within_chance_is_none():
    """Statistics of 12 samples: outputs move by them, and no channel is beyond chance."""
    model, _ = healthy("mlp")
    few = batches(size=6, count=2, seed=9)
    assert of(diagnose(model, few), "BN302") == ()


def test_without_targets_it_is_a_warning_and_says_how_many_flip():
    model, given = healthy("vgg")
    for norm in batch_norms(model).values():
        norm.running_mean.add_(norm.running_var.sqrt())
    (finding,) = of(diagnose(model, given), "BN302")
    assert finding.severity is Severity.error
    (finding,) = of(diagnose(model, [x for x, _ in given]), "BN302")
    assert finding.severity is Severity.warning
    assert finding.evidence["flips"] > 0.3
    assert "change class" in finding.message
    assert not math.isnan(finding.evidence["relative"])


def scored(before: float, after: float, count: int) -> Observed:
    """What batches showed: accuracies with the running statistics and with the batches'."""
    scores = {
        name: Score(1.0, accuracy, torch.zeros(count))
        for name, accuracy in (("running", before), ("pooled", after))
    }
    return replace(observe(nn.Linear(2, 2), [torch.zeros(4, 2)]), scores=scores)


@pytest.mark.parametrize(
    ("before", "after", "count", "falls"),
    [
        (0.37, 0.99, 1024, True),
        (0.60, 0.80, 1024, True),
        (0.61, 0.80, 1024, False),  # 19 points
        (0.99, 0.37, 1024, False),
        (0.40, 0.70, 32, False),  # 30 points are 2.5 standard errors
        (0.40, 0.70, 64, True),
    ],
)
def test_a_fall_of_accuracy_is_20_points_and_beyond_chance(before, after, count, falls):
    assert _falls(scored(before, after, count)) is falls


def test_a_large_fall_is_an_error_whatever_outputs_move_by():
    model, given = healthy("mlp")
    for norm in batch_norms(model).values():
        norm.running_mean.mul_(0.5)
        norm.running_var.mul_(8.0)
    (finding,) = of(diagnose(model, given), "BN302")
    assert finding.evidence["relative"] < 1.0
    assert finding.evidence["accuracy_pooled"] - finding.evidence["accuracy_running"] > 0.25
    assert finding.severity is Severity.error


def test_data_that_the_model_was_not_trained_on_are_told_so():
    """Shuffled pixels: the running statistics differ, and recalibration makes nothing better."""
    model, given = healthy("mlp")
    noise = [(x, torch.randint(10, y.shape, generator=torch.Generator().manual_seed(0))) for x, y in given]
    shifted = [(x * 4 + 2, y) for x, y in noise]
    for finding in of(diagnose(model, shifted), "BN302"):
        worse = finding.evidence["loss_pooled"] > finding.evidence["loss_running"]
        assert finding.repairable is not worse


def test_frozen_statistics_are_weights():
    model, given = healthy("mlp")
    stale(model)
    model.train()
    for norm in batch_norms(model).values():
        norm.eval()
    assert of(diagnose(model, given), "BN302") == ()
