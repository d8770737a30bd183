"""diagnose: what it needs, what it leaves, in which order it tells."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from xhat.doctor import RULES, Diagnosis, Severity, diagnose
from xhat.doctor.case import Case
from xhat.doctor.diagnose import _apply
from xhat.doctor.rule import Rule, found
from xhat.errors import DataError, ModelError, UsageError

from .cases import of, settled
from .trained import NAMES, healthy


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_healthy_networks_have_nothing_worse_than_info(name):
    model, batches = healthy(name)
    found = diagnose(model, batches)
    assert not found.at_least("warning")
    # The study's networks keep their biases so that arms compare.
    assert {finding.code for finding in found.findings} <= {"BN101", "BN205", "BN107"}
    assert found.batches == 8
    assert found.batch_norms > 3


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_out_bit_for_bit(training):
    model, batches = healthy("resnet")
    model.train(training)
    before, modes = bits(model), [module.training for module in model.modules()]
    drawn = torch.get_rng_state()
    diagnose(model, batches, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_batches_the_other_rules_are_skipped_and_say_what_they_need():
    found = diagnose(settled(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))))
    assert {skipped.code: skipped.reason for skipped in found.skipped} == {
        code: reason
        for code, rule in RULES.items()
        if rule.needs
        for reason in [next(s.reason for s in found.skipped if s.code == code)]
    }
    assert {s.code for s in found.skipped} == {code for code, rule in RULES.items() if rule.needs}
    assert next(s.reason for s in found.skipped if s.code == "BN101") == "needs batches"
    assert next(s.reason for s in found.skipped if s.code == "BN108") == "needs the optimizer"


def test_worst_first_then_by_code_then_in_the_model_s_order():
    model = settled(nn.Sequential(*(nn.BatchNorm1d(4, momentum=0.99) for _ in range(3))))
    with torch.no_grad():
        model[2].running_var[0] = math.nan
        model[1].running_var[0] = -1.0
    told = [(finding.code, finding.module) for finding in diagnose(model).findings]
    assert told == [("BN201", "2"), ("BN202", "1"), ("BN106", "0"), ("BN106", "1"), ("BN106", "2")]


def test_a_model_without_batch_norm_is_told_as_such():
    found = diagnose(nn.Linear(3, 4))
    assert (found.findings, found.notes) == ((), ("The model has no batch norm.",))


def test_an_iterator_is_enough():
    model, batches = healthy("mlp")
    found = diagnose(model, iter(batches), limit=3)
    assert found.batches == 3


def test_any_batch_with_forward():
    model, batches = healthy("mlp")
    found = diagnose(
        model,
        [{"image": x, "label": y} for x, y in batches],
        forward=lambda model, batch: model(batch["image"]),
    )
    assert not found.at_least("warning")


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        (torch.randn(8, 4), UsageError, "iterable of batches"),
        ([], DataError, "no batches"),
        ([torch.randn(8, 5)], ModelError, "evaluation mode"),
        ([{"wrong": torch.randn(8, 4)}], ModelError, "forward="),
    ],
)
def test_errors_say_what_is_wrong(batches, error, words):
    with pytest.raises(error, match=words):
        diagnose(settled(nn.Sequential(nn.BatchNorm1d(4))), batches)


def test_lazy_norms_have_to_be_run_first():
    with pytest.raises(ModelError, match="0 is a lazy batch norm"):
        diagnose(nn.Sequential(nn.LazyBatchNorm1d()))


def test_an_error_in_a_rule_is_not_hidden():
    def check(case: Case):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        _apply({"BN106": Rule("BN106", "x", check)}, Case.of(nn.BatchNorm1d(3)), batches=0)


@pytest.mark.parametrize("severity", [Severity.info, Severity.warning])
def test_what_another_rule_explains_is_left_out_with_a_note(severity):
    def cause(case: Case):
        yield found("BN107", "", "cause", evidence={}, remedy="r", severity=severity)

    def effect(case: Case):
        yield found("BN106", "", "effect", evidence={}, remedy="r")

    rules = {
        "BN106": Rule("BN106", "effect", effect, explained_by=("BN107",)),
        "BN107": Rule("BN107", "cause", cause),
    }
    told = _apply(rules, Case.of(nn.BatchNorm1d(3)), batches=0)
    explained = severity is Severity.warning
    assert [finding.code for finding in told.findings] == (["BN107"] if explained else ["BN106", "BN107"])
    assert len(told.notes) == explained


def test_planted_faults_in_a_trained_network_are_found_alone():
    """One fault each; nothing else at warning or above but what follows from it."""
    model, batches = healthy("vgg")
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for code, plant in {
        "BN106": lambda bn: setattr(bn, "momentum", 0.99),
        "BN201": lambda bn: bn.running_mean[2].fill_(math.inf),
        "BN202": lambda bn: bn.running_var[1].fill_(-0.5),
        "BN203": lambda bn: bn.reset_running_stats(),
    }.items():
        sick = copy.deepcopy(model)
        plant(sick.get_submodule(norms[2]))
        told = diagnose(sick, batches[:4])
        assert {(f.code, f.module) for f in told.at_least("warning")} == {(code, norms[2])}
        assert of(told, code)


class InPlace(nn.Module):
    """Scales its input where it lies."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.mul_(2.0))


def test_a_model_that_writes_into_its_input_changes_no_batch_and_is_no_finding():
    inner, batches = healthy("mlp")
    halved = [(x / 2, y) for x, y in batches]
    kept = [x.clone() for x, _ in halved]
    found = diagnose(InPlace(inner), halved)
    assert all(torch.equal(x, old) for (x, _), old in zip(halved, kept, strict=True))
    assert found.at_least("warning") == ()


def test_a_repr_says_how_much_was_not_looked_at():
    bare = diagnose(settled(nn.Sequential(nn.BatchNorm1d(4))))
    words = repr(bare)
    assert words.startswith("Diagnosis of 1 batch norm: no findings\n")
    assert f"{len(bare.skipped)} rules not applied: needs batches; needs the optimizer" in words
    one = repr(diagnose(settled(nn.Sequential(nn.BatchNorm1d(4, momentum=0.99), nn.BatchNorm1d(4)))))
    assert one.startswith("Diagnosis of 2 batch norms: 1 finding\n  warning BN106 0: ")
    assert repr(Diagnosis((), batch_norms=3)) == "Diagnosis of 3 batch norms: no findings"


def test_a_model_that_cannot_run_is_told_with_what_may_be_its_cause():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).half())
    with pytest.raises(
        ModelError, match=r"evaluation mode on batch 0 .* Found without running it: .*BN204 1: "
    ):
        diagnose(model, [torch.randn(4, 3, 2, 2)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model",), "model is a str"),
        ((nn.Linear(2, 2),), None),
        ((nn.BatchNorm1d(2), None, 3), "optimizer is a int"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments, message):
    model, *rest = arguments
    if message is None:
        assert "nothing to look at" in repr(diagnose(model))
        return
    with pytest.raises(UsageError, match=message):
        diagnose(model, optimizer=rest[1] if rest else None)
