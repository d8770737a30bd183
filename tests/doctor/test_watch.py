"""watch sees what happens in training steps, changes nothing, and rules BN401 to BN403 speak of it."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import xhat
from tests.doctor.cases import of
from tests.doctor.trained import Batch, batches, healthy, trained
from xhat import diagnose, freeze_, update_once, watch
from xhat.doctor import Diagnosis, Severity
from xhat.errors import UsageError
from xhat.norms import batch_norms

Step = Callable[[nn.Module, torch.optim.Optimizer, list[Batch]], Any]


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, given: list[Batch]) -> None:
    """One forward, one backward, one step."""
    for x, y in given:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def accumulated(parts: int) -> Step:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, given: list[Batch]) -> None:
        for x, y in given:
            optimizer.zero_grad()
            for some, right in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(model(some), right) / parts).backward()
            optimizer.step()

    return step


def sam(model: nn.Module, optimizer: torch.optim.Optimizer, given: list[Batch]) -> None:
    """Two passes over each batch, the second at moved weights."""
    for x, y in given:
        for move in (1e-3, -1e-3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(move)
        optimizer.step()


def two_views(model: nn.Module, optimizer: torch.optim.Optimizer, given: list[Batch]) -> None:
    """A loss of consistency: two inputs, one backward."""
    for x, y in given:
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + F.cross_entropy(model(x.flip(-1)), y)).backward()
        optimizer.step()


class Checkpointed(nn.Module):
    def __init__(self, model: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = model, reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.inner.hidden:  # type: ignore[union-attr]
            if self.reentrant and not x.requires_grad:
                x = x.requires_grad_()
            x = checkpoint(layer, x, use_reentrant=self.reentrant)
        out: Tensor = self.inner.output(x)  # type: ignore[operator]
        return out


def watched(
    model: nn.Module, step: Step = plain, *, size: int = 64, context: Any = None
) -> tuple[xhat.doctor.Watched, Diagnosis]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    with watch(model) as found, context or nullcontext():
        step(model, optimizer, batches(size=size, count=3))
    return found, diagnose(model.eval(), watched=found)


def codes(found: Diagnosis) -> list[str]:
    return [finding.code for finding in found.findings if finding.code.startswith("BN4")]


@pytest.mark.parametrize("name", ["vgg", "resnet", "mlp"])
def test_plain_training_has_no_finding(name):
    found, diagnosis = watched(trained(name))
    assert found.steps == 3
    assert found.backwards == [1, 1, 1]
    assert codes(diagnosis) == []
    rows = found.to_frame()
    assert list(rows.forwards) == list(rows.updates) == [1.0] * len(rows)
    assert (rows.samples == 64).all()
    assert rows.moved.all()


@pytest.mark.parametrize("step", [plain, accumulated(2), sam, two_views])
def test_training_is_bit_for_bit_the_same(step):
    one, other = trained("mlp").train(), trained("mlp").train()
    given = batches(count=3)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (one, other)]
    with watch(one):
        step(one, optimizers[0], given)
    step(other, optimizers[1], given)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for model in (one, other):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_hooks_go_also_on_an_exception():
    model = trained("mlp")
    with pytest.raises(RuntimeError, match="stop"), watch(model):
        raise RuntimeError("stop")
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(UsageError, match="no batch norm"), watch(nn.Linear(2, 2)):
        pass


def test_frozen_but_drifting_is_found():
    model = trained("resnet")
    for block in list(model.blocks)[:2]:  # type: ignore[arg-type]
        block.requires_grad_(False)
    names = [name for name in batch_norms(model) if name.startswith(("blocks.0", "blocks.1"))]
    _, diagnosis = watched(model)
    found = of(diagnosis, "BN401")
    assert [finding.module for finding in found] == names
    assert all(finding.evidence == {"updates": 3, "steps": 3} for finding in found)
    assert {f.code for f in diagnosis.at_least("warning")} == {"BN401"}


def test_evaluation_that_train_undoes_is_found():
    model = trained("mlp").train()
    name = list(batch_norms(model))[1]
    model.get_submodule(name).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model) as found:
        model.train()
        plain(model, optimizer, batches(count=2))
    (finding,) = of(diagnose(model, watched=found), "BN401")
    assert finding.module == name
    assert "came back by .train()" in finding.message


def test_norms_frozen_by_freeze_do_not_drift():
    model = freeze_(trained("mlp"), statistics=True, affine=True)
    found, diagnosis = watched(model)
    assert codes(diagnosis) == []
    assert not found.to_frame().moved.any()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_updates_twice(reentrant):
    found, diagnosis = watched(Checkpointed(trained("mlp"), reentrant))
    (finding,) = [f for f in diagnosis.findings if f.code.startswith("BN4")]
    assert (finding.code, finding.severity) == ("BN402", Severity.warning)
    assert finding.evidence["recomputed"] is True
    assert finding.evidence["repeated_updates_a_step"] == [1.0] * 4
    assert list(found.to_frame().updates) == [2.0] * 4
    assert diagnosis.at_least("warning") == (finding,)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("outside", [True, False])
def test_update_once_mends_it(reentrant, outside):
    model = Checkpointed(trained("mlp"), reentrant).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first, second = (update_once, watch) if outside else (watch, update_once)
    with first(model) as a, second(model) as b:
        plain(model, optimizer, batches(count=3))
    found = a or b
    assert list(found.to_frame().updates) == [1.0] * 4
    assert codes(diagnose(model, watched=found)) == []


def test_a_second_pass_over_a_batch_is_found():
    _, diagnosis = watched(trained("mlp"), sam)
    (finding,) = [f for f in diagnosis.findings if f.code.startswith("BN4")]
    assert (finding.code, finding.severity) == ("BN402", Severity.warning)
    assert finding.evidence["recomputed"] is False


def test_a_second_input_is_information():
    _, diagnosis = watched(trained("mlp"), two_views)
    (finding,) = [f for f in diagnosis.findings if f.code.startswith("BN4")]
    assert (finding.code, finding.severity) == ("BN402", Severity.info)


@pytest.mark.parametrize(("parts", "severity"), [(2, Severity.info), (8, Severity.warning)])
def test_microbatches_are_a_warning_where_they_are_small(parts, severity):
    _, diagnosis = watched(trained("mlp"), accumulated(parts))
    (finding,) = [f for f in diagnosis.findings if f.code.startswith("BN4")]
    assert (finding.code, finding.severity) == ("BN403", severity)
    assert finding.evidence["microbatches"] == parts
    assert finding.evidence["values"] == 64 // parts
    assert finding.evidence["samples"] == 64 // parts


def test_probes_and_evaluation_within_the_block_do_not_count():
    model, given = healthy("mlp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    with watch(model) as found:
        for batch in given[:2]:
            plain(model, optimizer, [batch])
            diagnose(model, given[:1])
            model.eval()(given[0][0])
            model.train()
    assert list(found.to_frame().updates) == [1.0] * 4
    assert codes(diagnose(model, watched=found)) == []


def test_without_watch_the_rules_are_skipped():
    skipped = {each.code: each.reason for each in diagnose(copy.deepcopy(trained("mlp"))).skipped}
    assert {"BN401", "BN402", "BN403"} <= set(skipped)
    assert "xhat.watch" in skipped["BN401"]
