"""Cases of docs/peers.md whose tools are packages of their own: they run where those are installed.

pip install --no-deps --target PEERS -r requirements/peers.txt
python docs/make_peers.py --packages PEERS
"""

import torch
from _peers import Case, Seen, _Fold, trained_, true_variance
from torch import Tensor, nn

import xhat


class RegistrationOrder(_Fold):
    """Registered in one order, called in another."""

    tool = "mmcv.cnn.utils.fuse_conv_bn"
    package = "mmcv-lite"
    what = "a BN registered behind a convolution and called in front of it"

    def model(self) -> nn.Module:
        class Before(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.conv, self.bn = nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)

            def forward(self, x: Tensor) -> Tensor:
                return self.conv(self.bn(x).relu())

        return trained_(Before())

    folds = 0

    def fused(self, model: nn.Module) -> nn.Module:
        from mmcv.cnn.utils import fuse_conv_bn

        return fuse_conv_bn(model)


class OneDimension(_Fold):
    """The weight of another number of axes is reshaped to four."""

    tool = "mmcv.cnn.utils.fuse_conv_bn"
    package = "mmcv-lite"
    what = "`Conv1d` with BN behind it"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return trained_(nn.Sequential(nn.Conv1d(6, 6, 3), nn.BatchNorm1d(6)))

    def inputs(self) -> Tensor:
        return torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(1))

    def fused(self, model: nn.Module) -> nn.Module:
        from mmcv.cnn.utils import fuse_conv_bn

        return fuse_conv_bn(model)


class LargeMean(Case):
    """E[x²] − E[x]² in float32 cancels."""

    tool = "fvcore.nn.precise_bn.update_bn_stats"
    package = "fvcore"
    what = "running_var of values of mean 10,000 and variance 1, 100 batches"

    def batches(self) -> list[Tensor]:
        drawn = torch.Generator().manual_seed(0)
        return [10_000 + torch.randn(8, 3, 4, 4, generator=drawn) for _ in range(100)]

    def seen(self, model: nn.Module) -> Seen:
        true, found = true_variance(self.batches()), float(model[0].running_var[0])
        return Seen(f"{found:.3f}, where {true:.3f} is true", right=abs(found - true) < 1e-3)

    def peer(self) -> Seen:
        from fvcore.nn.precise_bn import update_bn_stats

        model = nn.Sequential(nn.BatchNorm2d(3)).train()
        update_bn_stats(model, self.batches(), num_iters=100)
        return self.seen(model)

    def ours(self) -> Seen:
        model = nn.Sequential(nn.BatchNorm2d(3)).train()
        xhat.recalibrate_(model, self.batches())
        return self.seen(model)


class ShortLoader(LargeMean):
    """Its number of batches has to be known."""

    what = "a loader of 100 batches where 200 were allowed"

    def peer(self) -> Seen:
        from fvcore.nn.precise_bn import update_bn_stats

        model = nn.Sequential(nn.BatchNorm2d(3)).train()
        try:
            update_bn_stats(model, self.batches(), num_iters=200)
        except AssertionError:
            return Seen(f"raises AssertionError; momentum is left at {model[0].momentum}", right=False)
        return self.seen(model)

    def ours(self) -> Seen:
        model = nn.Sequential(nn.BatchNorm2d(3)).train()
        found = xhat.recalibrate_(model, self.batches(), limit=200)
        right = self.seen(model).right and model[0].momentum == 0.1
        return Seen(f"takes the {found.batches}; momentum is {model[0].momentum}", right)


class GroupNorm(Case):
    """A new layer's γ and β are 1 and 0."""

    tool = "opacus.validators.ModuleValidator.fix"
    package = "opacus"
    what = "a trained BN becomes a group norm: γ and β"

    def seen(self, convert: object) -> Seen:
        model = trained_(nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)))
        made = convert(model)
        assert isinstance(made[1], nn.GroupNorm)
        kept = torch.equal(made[1].weight, model[1].weight) and torch.equal(made[1].bias, model[1].bias)
        return Seen("kept" if kept else "lost: 1 and 0", right=kept)

    def peer(self) -> Seen:
        from opacus.validators import ModuleValidator

        return self.seen(lambda model: ModuleValidator.fix(model.train()))

    def ours(self) -> Seen:
        return self.seen(lambda model: xhat.convert_group_norm(model).model)


CASES: tuple[Case, ...] = (RegistrationOrder(), OneDimension(), LargeMean(), ShortLoader(), GroupNorm())
