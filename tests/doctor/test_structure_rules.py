"""Rules on structure: each planted fault is found with its numbers, what only looks like it is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xhat.doctor import Severity

from .cases import by

info, warning, error = Severity
X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
V = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Layers by name, and a forward pass."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def conv(**settings: Any) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1, **settings)


def bn() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(3)


def twice(model: nn.Module) -> nn.Module:
    """The second of two norms in a row, in evaluation mode whatever the model's mode is."""
    model.bn.train = lambda mode=True: model.bn  # type: ignore[method-assign]
    model.bn.training = False
    return model


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


# code, what, model, batch, findings as (module, severity, some evidence)
CASES: list[tuple[str, str, nn.Module, Any, list[tuple[str, Severity, dict[str, Any]]]]] = [
    ("BN101", "convolution", chain(conv(), bn()), X, [("0", info, {"parameters": 3, "norms": ["1"]})]),
    ("BN101", "linear", chain(nn.Linear(5, 7), nn.BatchNorm1d(7)), V, [("0", info, {"parameters": 7})]),
    ("BN101", "no bias", chain(conv(bias=False), bn()), X, []),
    ("BN101", "activation between", chain(conv(), nn.ReLU(), bn()), X, []),
    ("BN101", "used elsewhere", Net(lambda m, x: m.bn(y := m.c(x)) + y, c=conv(), bn=bn()), X, []),
    ("BN101", "no norm", chain(conv()), X, []),
    ("BN101", "frozen norm", twice(Net(lambda m, x: m.bn(m.c(x)), c=conv(), bn=bn())), X, []),
    (
        "BN101",
        "two norms",
        Net(lambda m, x: m.a(y := m.c(x)) + m.b(y), c=conv(), a=bn(), b=bn()),
        X,
        [("c", info, {"norms": ["a", "b"]})],
    ),
    # A linear layer's features are last; as they are, a norm would take axis 1 for channels.
    ("BN101", "axis", chain(nn.Linear(6, 6), nn.BatchNorm1d(5)), torch.randn(8, 5, 6), []),
    (
        "BN101",
        "transposed",
        Net(lambda m, x: m.b(m.l(x).transpose(1, 2)), l=nn.Linear(6, 4), b=nn.BatchNorm1d(4)),
        torch.randn(8, 5, 6),
        [("l", info, {"parameters": 4})],
    ),
    (
        "BN101",
        "flattened",  # a channel of the second is one place of a channel of the first
        chain(conv(), nn.Flatten(), nn.BatchNorm1d(108)),
        X,
        [("0", info, {"parameters": 3})],
    ),
    (
        "BN102",
        "dropout",
        chain(nn.Linear(5, 4), nn.Dropout(0.36), nn.BatchNorm1d(4)),
        V,
        [("2", warning, {"p": 0.36, "spread_left": pytest.approx(0.8)})],
    ),
    (
        "BN102",
        "functional",
        Net(lambda m, x: m.b(F.dropout(x, 0.5, m.training)), b=nn.BatchNorm1d(5)),
        V,
        [("b", warning, {"p": None})],
    ),
    ("BN102", "zero", chain(nn.Dropout(0.0), nn.BatchNorm1d(5)), V, []),
    ("BN102", "layer between", chain(nn.Dropout(), nn.Linear(5, 4), nn.BatchNorm1d(4)), V, []),
    ("BN102", "behind", chain(nn.BatchNorm1d(5), nn.Dropout()), V, []),
    (
        "BN103",
        "scores",
        chain(nn.Linear(5, 4), nn.BatchNorm1d(4)),
        (V, torch.tensor([0, 1, 2, 3] * 2)),
        [("1", warning, {"shape": [8, 4], "largest_class": 3})],
    ),
    (
        "BN103",
        "embedding",  # eight numbers a sample, three classes
        chain(nn.Linear(5, 8), nn.BatchNorm1d(8)),
        (V, torch.tensor([0, 1, 2, 2] * 2)),
        [("1", info, {"largest_class": 2})],
    ),
    (
        "BN103",
        "no target",
        chain(nn.Linear(5, 4), nn.BatchNorm1d(4)),
        V,
        [("1", info, {"largest_class": None})],
    ),
    (
        "BN103",
        "pixels",
        chain(conv(), bn()),
        (X, torch.full((8, 6, 6), 2)),
        [("1", warning, {"largest_class": 2})],
    ),
    ("BN103", "activation", chain(conv(), bn(), nn.ReLU()), X, []),
    (
        "BN104",
        "in a row",
        chain(conv(), bn(), bn()),
        X,
        [("2", warning, {"first": "1", "parameters": 6})],
    ),
    ("BN104", "activation between", chain(bn(), nn.ReLU(), bn()), X, []),
    (
        "BN104",
        "flattened between",
        Net(lambda m, x: m.b(m.a(x).flatten(2)), a=bn(), b=nn.BatchNorm1d(3)),
        X,
        [("b", warning, {"first": "a", "parameters": 6})],
    ),
    (
        "BN104",
        "over channels, then over positions",
        Net(lambda m, x: m.b(m.a(x).transpose(1, 2)), a=bn(), b=nn.BatchNorm2d(X.shape[2])),
        X,
        [],
    ),
    ("BN104", "used elsewhere", Net(lambda m, x: m.b(y := m.a(x)) + y, a=bn(), b=bn()), X, []),
    (
        "BN105",
        "two layers",
        Net(lambda m, x: m.bn(m.a(x)) + m.bn(m.b(x)), a=conv(), b=conv(), bn=bn()),
        X,
        [("bn", warning, {"calls": 2, "sources": ["a", "b"]})],
    ),
    (
        "BN105",
        "siamese",
        Net(lambda m, x: m.bn(m.a(x)) - m.bn(m.a(x.flip(3))), a=conv(), bn=bn()),
        X,
        [("bn", info, {"calls": 2, "sources": ["a"]})],
    ),
    ("BN105", "once", chain(conv(), bn()), X, []),
    (
        "BN105",
        "two modules that share weights",
        Net(lambda m, x: m.b(m.c(m.a(x))), a=bn(), c=conv(), b=bn()),
        X,
        [],
    ),
]


@pytest.mark.parametrize(
    ("code", "what", "model", "batch", "expected"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES]
)
def test_planted(code, what, model, batch, expected):
    found = by(model, code, [batch])
    assert [(f.module, f.severity) for f in found] == [(module, severity) for module, severity, _ in expected]
    for finding, (_, _, evidence) in zip(found, expected, strict=True):
        assert {key: finding.evidence[key] for key in evidence} == evidence
        assert finding.remedy.endswith(".")


def test_spread_left_behind_dropout_is_what_torch_shows():
    """In training the norm sees dropout's variance; with the running one of it, evaluation is too small."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.36), nn.BatchNorm1d(1, momentum=None)).double()
    x = torch.randn(200_000, 1, dtype=torch.float64)
    trained = model.requires_grad_(False)(x).std()
    (found,) = by(model, "BN102", [x])
    assert float(model.eval()(x).std() / trained) == pytest.approx(found.evidence["spread_left"], abs=0.01)


def test_rules_on_structure_take_the_evaluation_run_where_training_fails():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    one = torch.randn(1, 5)  # torch refuses one value a channel in training
    assert [finding.module for finding in by(model, "BN104", [one])] == ["2"]
    assert by(model, "BN102", [one]) == ()
