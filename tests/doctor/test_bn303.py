"""BN303: too few values a channel."""

import pytest
from torch import nn

from tests.doctor.cases import of
from tests.doctor.trained import batches, healthy
from xhat import diagnose, freeze_
from xhat.doctor.finding import Severity


@pytest.mark.parametrize(("name", "size"), [("mlp", 4), ("mlp", 8), ("vgg", 4), ("resnet", 2)])
def test_small_batches_are_found_and_nothing_else(name, size):
    model, _ = healthy(name)
    (finding,) = diagnose(model, batches(size=size, count=12)).at_least("warning")
    assert finding.code == "BN303"
    assert finding.severity is Severity.warning
    assert all(size <= worth < 16 for worth in finding.evidence["worth"])


def test_an_mlps_values_are_its_samples():
    model, _ = healthy("mlp")
    (finding,) = of(diagnose(model, batches(size=15, count=8)), "BN303")
    assert finding.evidence["worth"] == [15.0] * 4
    assert of(diagnose(model, batches(size=16, count=8)), "BN303") == ()


def test_a_last_batch_of_one_is_an_error_and_of_five_is_not():
    model, given = healthy("mlp")
    found = diagnose(model, given + batches(size=1, count=1))
    (finding,) = found.at_least("warning")
    assert (finding.code, finding.severity) == ("BN303", Severity.error)
    assert finding.evidence["batches"] == [8]
    assert len(finding.evidence["norms"]) == 4
    found = diagnose(model, given + batches(size=5, count=1))
    (finding,) = of(found, "BN303")
    assert (finding.severity, finding.evidence["fewest"]) == (Severity.info, 5)
    assert found.at_least("warning") == ()


def test_batches_of_one_only_are_an_error():
    model, _ = healthy("mlp")
    found = of(diagnose(model, batches(size=1, count=3)), "BN303")
    assert [finding.severity for finding in found] == [Severity.error]


def test_frozen_norms_need_no_values():
    model, _ = healthy("mlp")
    assert of(diagnose(freeze_(model), batches(size=2, count=4)), "BN303") == ()
    assert not isinstance(model, nn.BatchNorm1d)
