"""BN304: batches that are not drawn at random."""

import pytest
import torch

from tests.doctor.cases import of
from tests.doctor.trained import NAMES, batches, healthy
from xhat import diagnose


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "count", "classes"), [(64, 8, 8), (16, 10, 10), (64, 4, 2)])
def test_batches_of_one_class_are_found_and_nothing_else(name, size, count, classes):
    model, _ = healthy(name)
    found = diagnose(model, batches(size=size, count=count, classes=classes))
    (finding,) = found.at_least("warning")
    assert finding.code == "BN304"
    assert [sum(n > 0 for n in batch) for batch in finding.evidence["classes"]] == [1] * count
    assert f"1 to 1 of the {classes} classes" in finding.message


@pytest.mark.parametrize("name", NAMES)
def test_the_same_samples_shuffled_are_none(name):
    model, _ = healthy(name)
    given = batches(size=64, count=8, classes=8)
    x, y = torch.cat([x for x, _ in given]), torch.cat([y for _, y in given])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    shuffled = list(zip(x[order].split(64), y[order].split(64), strict=True))
    assert of(diagnose(model, shuffled), "BN304") == ()


def test_without_targets_it_is_found_too():
    model, _ = healthy("resnet")
    given = [x for x, _ in batches(size=64, count=8, classes=8)]
    (finding,) = of(diagnose(model, given), "BN304")
    assert "classes" not in finding.evidence


def test_a_difference_between_batches_that_outputs_do_not_feel_is_none():
    """Two brightnesses that alternate: beyond chance, but small for the outputs."""
    model, given = healthy("mlp")
    bright = [(x + 0.03 * (place % 2), y) for place, (x, y) in enumerate(given)]
    assert of(diagnose(model, bright), "BN304") == ()
