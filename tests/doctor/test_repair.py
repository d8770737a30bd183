"""repair: what is mended, what is refused, and what the second diagnosis says."""

import math

import pytest
import torch
from torch import nn

from xhat.doctor import diagnose, repair, watch
from xhat.errors import UsageError

from .cases import of, settled
from .trained import accuracy, healthy


def sick() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    model, batches = healthy("vgg")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[1].running_mean[0] = math.nan
    norms[2].momentum = 0.99
    return model, batches


def test_statistics_bias_and_momentum_are_mended_in_a_copy():
    model, batches = sick()
    before = diagnose(model, batches)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = repair(model, before, batches[0][0], batches=batches)
    assert {finding.code for finding in before.findings} == {"BN101", "BN106", "BN201"}
    assert done.after.findings == ()
    assert done.before is before
    assert done.max_abs_error is None  # recalibration changes outputs on purpose
    assert not done.refusals
    assert {"features.1.1", "features.2.2"} <= {change.module for change in done.changes}
    assert accuracy(done.model) > 0.6 > 0.2 > accuracy(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, kept[name], rtol=0, atol=0, equal_nan=True)
    assert repr(done).startswith("Repair(")


def test_only_the_codes_asked_for():
    model, batches = sick()
    done = repair(model, diagnose(model, batches), batches[0][0], codes=["BN106"], batches=batches)
    assert [change.what for change in done.changes] == ["momentum 0.99 is now 0.01"]
    assert not of(done.after, "BN106")
    assert of(done.after, "BN201")
    assert of(done.after, "BN101")
    assert any("BN201 was not asked for" in refusal.reason for refusal in done.refusals)


def test_repairs_that_keep_outputs_are_compared():
    model, batches = healthy("vgg")
    done = repair(model, diagnose(model, batches), batches[0][0])
    assert {change.module for change in done.changes} == {f.module for f in of(done.before, "BN101")}
    assert done.max_abs_error is not None
    assert done.max_abs_error < 1e-4


def test_what_is_needed_is_said():
    model, batches = sick()
    done = repair(model, diagnose(model, batches))
    reasons = {refusal.module: refusal.reason for refusal in done.refusals}
    assert "batches=" in reasons["features.1.1"]
    assert "*inputs" in reasons["features.0.0"]
    assert [change.module for change in done.changes] == ["features.2.2"]


def test_what_cannot_be_looked_at_again_does_not_count_as_mended():
    model, batches = sick()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)
    before = diagnose(model, batches, optimizer=optimizer)
    assert {"BN101", "BN108"} <= {finding.code for finding in before.findings}
    alone = repair(model, before)  # no inputs, batches or optimizer
    assert of(alone.after, "BN101") == of(before, "BN101")
    assert of(alone.after, "BN108") == of(before, "BN108")
    assert any("BN101, BN108" in note for note in alone.after.notes)
    assert alone.counts == (len(before.findings), len(before.findings) - 1)  # momentum alone is mended
    ranks = [finding.severity.rank for finding in alone.after.findings]
    assert ranks == sorted(ranks, reverse=True)
    whole = repair(model, before, batches[0][0], batches=batches, optimizer=optimizer)
    (decayed,) = of(whole.after, "BN108")
    assert decayed.evidence == of(before, "BN108")[0].evidence
    assert whole.after.notes == ()
    assert optimizer.param_groups[0]["params"][0] is next(model.parameters())


def test_what_was_mended_is_not_kept_for_want_of_batches():
    model, batches = healthy("vgg")
    before = diagnose(model, batches)
    assert of(before, "BN101")
    assert not of(repair(model, before, batches[0][0]).after, "BN101")


def test_rules_that_the_first_diagnosis_left_out_are_not_compared():
    model, batches = sick()
    done = repair(model, diagnose(model), codes=["BN106"], batches=batches)
    assert of(done.after, "BN101")
    assert done.counts == (2, 1)


def test_what_watch_saw_is_looked_at_again():
    model, batches = healthy("mlp")
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model) as watched:
        for x, y in batches[:2]:
            optimizer.zero_grad()
            model(x)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    before = diagnose(model, watched=watched)
    assert of(before, "BN402")
    assert of(repair(model, before, watched=watched).after, "BN402") == of(before, "BN402")
    assert repair(model, before, watched=watched).after.notes == ()


def test_what_has_no_repair_is_refused_with_its_remedy():
    model = settled(
        nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.ReLU())
    )
    x = torch.randn(16, 5)
    done = repair(model, diagnose(model, [x]), x, codes=["BN104"])
    assert not done.changes
    (refusal,) = [refusal for refusal in done.refusals if refusal.module == "2"]
    assert refusal.reason == "BN104 has no repair by itself. Leave one of the two norms out."


def test_half_precision_buffers_are_cast():
    model = settled(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))).bfloat16()
    done = repair(model, diagnose(model), torch.randn(16, 5, dtype=torch.bfloat16))
    assert {tensor.dtype for tensor in done.model[1].parameters()} == {torch.float32}
    assert done.model[1].running_var.dtype == torch.float32
    assert not of(done.after, "BN204")
    assert done.max_abs_error < 0.05  # bfloat16's rounding


@pytest.mark.parametrize("code", ["BN999", "BN10"])
def test_a_code_that_does_not_exist(code):
    model = settled(nn.Sequential(nn.BatchNorm1d(4)))
    with pytest.raises(UsageError, match="unknown rule"):
        repair(model, diagnose(model), codes=[code])


def test_an_iterator_of_batches_is_kept():
    model, batches = sick()
    done = repair(model, diagnose(model, batches), batches[0][0], batches=iter(batches))
    assert not done.after.at_least("warning")
    assert done.after.batches == 8
