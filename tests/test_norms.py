"""Batch norms are found by what they are, and replaced wherever they are held."""

import pytest
import torch
from torch import Tensor, nn

from tests.surgery.nets import FrozenBatchNorm2d
from tests.surgery.users import BatchNormAct
from xhat import freeze_
from xhat.norms import (
    batch_norms,
    has_torch_forward,
    is_batch_norm,
    is_fixed_norm,
    is_uninitialised,
    normalisers,
    replace_,
)

BATCH_NORMS = {
    "1d": nn.BatchNorm1d(2),
    "2d": nn.BatchNorm2d(2),
    "3d": nn.BatchNorm3d(2),
    "sync": nn.SyncBatchNorm(2),
    "lazy": nn.LazyBatchNorm2d(),
    "subclass": BatchNormAct(2),
    "frozen": freeze_(nn.BatchNorm2d(2)),
}
OTHERS = {
    "instance": nn.InstanceNorm2d(2, track_running_stats=True),
    "layer": nn.LayerNorm(2),
    "group": nn.GroupNorm(1, 2),
    "fixed": FrozenBatchNorm2d(2),
    "linear": nn.Linear(2, 2),
}


@pytest.mark.parametrize(("name", "module"), [*BATCH_NORMS.items(), *OTHERS.items()])
def test_what_is_a_batch_norm(name: str, module: nn.Module) -> None:
    assert is_batch_norm(module) is (name in BATCH_NORMS)
    assert is_fixed_norm(module) is (name == "fixed")
    assert is_uninitialised(module) is (name == "lazy")
    if name in BATCH_NORMS:
        assert has_torch_forward(module) is (name != "subclass")


def test_a_forward_set_on_the_module_is_not_torchs() -> None:
    norm = nn.BatchNorm2d(2)
    norm.forward = lambda x: x  # type: ignore[method-assign]
    assert not has_torch_forward(norm)


def test_a_fixed_norm_needs_its_statistics() -> None:
    kind = type("FrozenBatchNormOfMine", (nn.Module,), {})
    assert not is_fixed_norm(kind())


def test_normalisers_are_batch_norms_and_those_of_constant_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.Sequential(FrozenBatchNorm2d(2)))
    assert list(normalisers(model)) == ["0", "2.0"]


def shared() -> tuple[nn.Module, nn.Module]:
    norm = nn.BatchNorm1d(2)
    return nn.Sequential(norm, nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)}), nn.BatchNorm1d(2)), norm


def test_one_module_of_several_names_stands_under_its_first() -> None:
    model, _norm = shared()
    assert list(batch_norms(model)) == ["0", "2"]


def test_replaced_wherever_it_is_held_with_its_mode() -> None:
    model, norm = shared()
    norm.eval()
    new = nn.Identity()
    replace_(model, norm, new)
    names = dict(model.named_modules(remove_duplicate=False))
    assert [name for name, module in names.items() if module is new] == ["0", "1.a", "1.b.0"]
    assert norm not in names.values()
    assert not new.training
    with pytest.raises(ValueError, match="itself"):
        replace_(new, new, norm)


def test_replaced_where_a_class_refuses_attributes() -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(x)
            return out

        def __setattr__(self, name: str, value: object) -> None:
            if "norm" in vars(self).get("_modules", ()):
                raise AttributeError
            super().__setattr__(name, value)

    model = Closed()
    replace_(model, model.norm, nn.Identity())
    x = torch.randn(3, 2)
    assert model(x) is x
