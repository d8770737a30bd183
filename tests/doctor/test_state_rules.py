"""Rules on buffers, parameters and settings: each planted fault is found with its numbers, its neighbour is not."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from xhat.doctor import Severity

from .cases import by, settled

info, warning, error = Severity


def norm(channels: int = 16, **settings: Any) -> nn.BatchNorm2d:
    return settled(nn.Sequential(nn.BatchNorm2d(channels, **settings)))[0]


@dataclass
class Planted:
    name: str
    code: str
    plant: Callable[[nn.BatchNorm2d], None]
    severity: Severity | None  # None: just inside the threshold, nothing is found
    evidence: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def filled(attribute: str, value: float, *channels: int) -> Callable[[nn.BatchNorm2d], None]:
    def plant(bn: nn.BatchNorm2d) -> None:
        with torch.no_grad():
            getattr(bn, attribute)[list(channels) if channels else slice(None)] = value

    return plant


def several(*plants: Callable[[nn.BatchNorm2d], None]) -> Callable[[nn.BatchNorm2d], None]:
    return lambda bn: [plant(bn) for plant in plants] and None


def like_new(bn: nn.BatchNorm2d) -> None:
    bn.reset_running_stats()


def untracked(bn: nn.BatchNorm2d) -> None:
    bn.num_batches_tracked.zero_()


def nothing(bn: nn.BatchNorm2d) -> None:
    pass


most = range(8)
few = range(7)
CASES = [
    Planted("keras", "BN106", nothing, warning, {"momentum": 0.99}, {"momentum": 0.99}),
    Planted("at", "BN106", nothing, warning, {"momentum": 0.9}, {"momentum": 0.9}),
    Planted("below", "BN106", nothing, None, settings={"momentum": 0.89}),
    Planted("average", "BN106", nothing, None, settings={"momentum": None}),
    Planted("untracked", "BN106", nothing, None, settings={"momentum": 0.99, "track_running_stats": False}),
    # √(v / (v + eps)): v = eps/99 leaves 0.1, v = eps leaves 0.707
    Planted("rules", "BN107", filled("running_var", 1e-3 / 101), warning, {"eps": 1e-3}, {"eps": 1e-3}),
    Planted("counts", "BN107", filled("running_var", 1e-3 / 97), info, {"alive": 16}, {"eps": 1e-3}),
    Planted("equal", "BN107", filled("running_var", 0.99e-5), info),
    Planted("larger", "BN107", filled("running_var", 1.01e-5), None),
    Planted("dead few", "BN107", filled("running_var", 0.0, 1, 2, 3), None),
    Planted("lost", "BN107", nothing, info, {"eps": 1e-8}, {"eps": 1e-8}),
    Planted("kept", "BN107", nothing, None, settings={"eps": 6e-8}),
    Planted("nan", "BN201", filled("running_mean", math.nan, 3), error, {"not_finite": 1, "first": [3]}),
    Planted(
        "inf", "BN201", filled("running_var", math.inf, 0, 5), error, {"running_var": 2, "running_mean": 0}
    ),
    Planted("large", "BN201", filled("running_var", 3e38), None),
    Planted("negative", "BN202", filled("running_var", -1.0, 2), error, {"negative": 1, "not_a_number": 1}),
    Planted("slightly", "BN202", filled("running_var", -1e-6, 2), error, {"negative": 1, "not_a_number": 0}),
    Planted("zero", "BN202", filled("running_var", 0.0, 2), None),
    Planted("nan only", "BN202", filled("running_var", math.nan, 2), None),
    Planted("never", "BN203", like_new, error, {"num_batches_tracked": 0, "channels": 16}),
    Planted("not counted", "BN203", untracked, None),
    Planted("one channel", "BN203", several(like_new, filled("running_mean", 1e-30, 4)), None),
    Planted("bf16", "BN204", lambda bn: bn.bfloat16() and None, warning, {"dtype": ["bfloat16"]}),
    Planted("fp16", "BN204", lambda bn: bn.half() and None, warning, {"dtype": ["float16"]}),
    Planted("fp64", "BN204", lambda bn: bn.double() and None, None),
    Planted("constant", "BN205", filled("running_var", 1e-40, 1, 9), info, {"dead": 2, "first": [1, 9]}),
    Planted(
        "gamma", "BN205", filled("weight", 0.0, 4), info, {"dead": 1, "low_weight": 1, "low_variance": 0}
    ),
    Planted("faint", "BN205", filled("running_var", 0.9e-6, 4), info, {"dead": 0, "low_variance": 1}),
    Planted("small", "BN205", filled("running_var", 1.1e-6, 4), None),
    Planted("most", "BN205", filled("weight", 1e-6, *most), warning, {"dead": 8}),
    Planted("not most", "BN205", filled("weight", 1e-6, *few), info, {"dead": 7}),
    Planted("all", "BN205", filled("weight", 0.0), warning, {"dead": 16}),
    Planted("made so", "BN205", several(like_new, filled("weight", 0.0)), info, {"dead": 16}),
    Planted(
        "huge", "BN206", filled("running_var", 1e-10, 7), warning, {"large": 1, "first": [7]}, {"eps": 1e-12}
    ),
    Planted("tiny", "BN206", filled("running_var", 1e10), info, {"small": 16}),
    Planted("big", "BN206", filled("running_var", 1e6), None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.name}")
def test_planted(case: Planted) -> None:
    bn = norm(**case.settings)
    case.plant(bn)
    found = by(nn.Sequential(bn), case.code)
    assert [finding.severity for finding in found] == ([] if case.severity is None else [case.severity])
    for finding in found:
        assert finding.code == case.code
        assert finding.module == "0"
        assert {key: finding.evidence[key] for key in case.evidence} == case.evidence
        assert finding.remedy.endswith(".")


def test_scale_is_told_by_its_largest_factor():
    bn = norm(eps=1e-12)
    with torch.no_grad():
        bn.running_var[7], bn.weight[7] = 1e-10, 3.0
    (found,) = by(nn.Sequential(bn), "BN206")
    assert found.evidence["largest"] == pytest.approx(3.0 / math.sqrt(1e-10 + 1e-12), rel=1e-6)


def test_standard_deviation_left_is_what_torch_computes():
    bn = norm(eps=1e-2).double()
    with torch.no_grad():
        bn.running_mean.zero_(), bn.running_var.fill_(1e-5), bn.weight.fill_(1.0), bn.bias.zero_()
    (found,) = by(nn.Sequential(bn), "BN107")
    # An input whose standard deviation is the running one comes out with what is left.
    one = bn.eval().requires_grad_(False)(torch.full((1, 16, 1, 1), 1e-5**0.5, dtype=torch.float64))
    assert found.evidence["standard_deviation_left"] == pytest.approx(float(one[0, 0]), rel=1e-6)


@pytest.mark.parametrize(("decay", "count"), [((5e-4, 5e-4), 2), ((5e-4, 0.0), 1), ((0.0, 0.0), 0)], ids=str)
def test_weight_decay_is_found_by_group(decay, count):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    groups = [{"params": model[:2].parameters(), "weight_decay": decay[0]}]
    groups += [{"params": model[2:].parameters(), "weight_decay": decay[1]}]
    found = by(model, "BN108", optimizer=torch.optim.SGD(groups, lr=0.1))
    assert [f.severity for f in found] == [info] * count
    assert [(f.evidence["group"], f.evidence["batch_norms"]) for f in found] == [(0, 1), (1, 1)][:count]


def test_weight_decay_on_other_parameters_is_none_of_ours():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "weight_decay": 0.0}]
    assert not by(model, "BN108", optimizer=torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01))


def test_a_new_model_is_one_warning_not_one_error_a_norm():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    (found,) = by(model, "BN203")
    assert (found.severity, found.module) == (warning, "")
    assert found.evidence == {"batch_norms": 2, "new": 2}


def test_a_norm_that_evaluation_does_not_call_may_be_new():
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = settled(nn.Sequential(nn.BatchNorm1d(4))), nn.BatchNorm1d(4)

        def forward(self, x):
            return (self.main(x), self.aux(x)) if self.training else self.main(x)

    assert [finding.module for finding in by(Auxiliary(), "BN203")] == ["aux"]
    assert not by(Auxiliary(), "BN203", [torch.randn(8, 4)])


class FrozenBatchNorm2d(nn.Module):
    """As detection libraries write it."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((4,), value))


def test_norms_of_constant_statistics_are_looked_at_too():
    model = nn.Sequential(FrozenBatchNorm2d(), FrozenBatchNorm2d())
    assert not by(model, "BN203")  # converted weights often have 0 and 1
    model[1].running_var[2] = math.nan
    (found,) = by(model, "BN201")
    assert (found.module, found.repairable) == ("1", False)
