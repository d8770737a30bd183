"""What other tools do on cases of batch norm, and what xhat does: for docs/peers.md and tests/surgery/test_peers.py.

Each case is one class: ``peer()`` runs the other tool, ``ours()`` xhat, on the same model and data. Both return what
is seen in figures, and whether that is right.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint

import xhat
from xhat.doctor import diagnose


@dataclass(frozen=True)
class Seen:
    """What a tool did on a case."""

    text: str
    right: bool


class Case:
    """A case; subclasses say which tool and what is done."""

    tool: ClassVar[str]
    what: ClassVar[str]
    package: ClassVar[str] = "torch"

    def peer(self) -> Seen:
        """Run the other tool."""
        raise NotImplementedError

    def ours(self) -> Seen:
        """Run xhat."""
        raise NotImplementedError


def trained_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics, γ and β as after training: far from 0 and 1."""
    drawn = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_var", "bn.weight", "1.weight")) and tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=drawn) + 0.5)
        elif tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=drawn))
    return model.eval()


class _Fold(Case):
    """Folding: right if the outputs stay."""

    folds = 1  # batch norms that can be folded

    def model(self) -> nn.Module:
        raise NotImplementedError

    def inputs(self) -> Tensor:
        return torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(1))

    def fused(self, model: nn.Module) -> nn.Module:
        from torch.fx.experimental.optimization import fuse

        return fuse(model)

    def peer(self) -> Seen:
        model, x = self.model(), self.inputs()
        try:
            with torch.no_grad():
                before = model(x)
                fused = self.fused(copy.deepcopy(model))
                error = float((fused(x) - before).abs().max())
        except Exception as raised:  # what a tool raises is what is shown
            return Seen(f"raises {type(raised).__name__}", right=False)
        if error > 1e-4:
            return Seen(f"outputs differ by {error:.1f}, and nothing is said", right=False)
        left = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in called(fused))
        return Seen("left as it is" if left else "folded", right=left == 0)

    def ours(self) -> Seen:
        surgery = xhat.fold(self.model(), self.inputs())
        assert surgery.max_abs_error is not None
        right = len(surgery.changes) == self.folds and surgery.max_abs_error < 1e-5
        text = f"folded, outputs differ by {surgery.max_abs_error:.0e}"
        if not surgery.changes:
            right &= len(surgery.refusals) > 0
            text = f"refused: {surgery.refusals[0].reason}"
        return Seen(text, right)


def called(model: nn.Module) -> list[nn.Module]:
    """Return the modules that a traced model calls; of another model all."""
    if isinstance(model, torch.fx.GraphModule):
        return [model.get_submodule(str(n.target)) for n in model.graph.nodes if n.op == "call_module"]
    return list(model.modules())


class ConvolutionTwice(_Fold):
    """A convolution whose output is normalised in one place and used plainly in another."""

    tool = "torch.fx.experimental.optimization.fuse"
    what = "a convolution called twice, with BN behind one of the calls"
    folds = 0

    def model(self) -> nn.Module:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.conv, self.bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

            def forward(self, x: Tensor) -> Tensor:
                return self.conv(self.bn(self.conv(x)).relu())

        return trained_(Twice())


class LinearOnThreeAxes(_Fold):
    """The linear layer's features are the last axis, BN's channels the second."""

    tool = "torch.fx.experimental.optimization.fuse"
    what = "`Linear` then `BatchNorm1d` on a 3-D input, where BN's channels are not the layer's features"
    folds = 0

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return trained_(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)))

    def inputs(self) -> Tensor:
        return torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(1))


class SyncBN(_Fold):
    """In evaluation mode it is a BN like any other."""

    tool = "torch.fx.experimental.optimization.fuse"
    what = "`SyncBatchNorm` behind a convolution"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return trained_(nn.Sequential(nn.Conv2d(6, 6, 3), nn.SyncBatchNorm(6)))


class Transposed(_Fold):
    """The weight's output channels are its second axis."""

    tool = "torch.fx.experimental.optimization.fuse"
    what = "`ConvTranspose2d` with BN behind it"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return trained_(nn.Sequential(nn.ConvTranspose2d(6, 6, 3), nn.BatchNorm2d(6)))


class GroupedTransposed(Transposed):
    """With groups, output channels are an axis within each group."""

    tool = "torch.nn.utils.fusion.fuse_conv_bn_eval"
    what = "`ConvTranspose2d` with groups"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return trained_(nn.Sequential(nn.ConvTranspose2d(6, 6, 3, groups=2), nn.BatchNorm2d(6)))

    def fused(self, model: nn.Module) -> nn.Module:
        return fuse_conv_bn_eval(model[0], model[1], transpose=True)


class LinearWithoutAffine(_Fold):
    """γ and β are None."""

    tool = "torch.nn.utils.fusion.fuse_linear_bn_eval"
    what = "`Linear` and a BN with `affine=False`"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return trained_(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, affine=False)))

    def inputs(self) -> Tensor:
        return torch.randn(8, 5, generator=torch.Generator().manual_seed(1))

    def fused(self, model: nn.Module) -> nn.Module:
        return fuse_linear_bn_eval(model[0], model[1])


def net() -> nn.Module:
    """Return one BN on 3 channels."""
    return nn.Sequential(nn.BatchNorm2d(3))


def images(count: int = 200, size: int = 2) -> list[Tensor]:
    """Return batches (size, 3, 4, 4) whose pixels share their image's brightness."""
    drawn = torch.Generator().manual_seed(0)
    bright = torch.randn(count * size, 1, 1, 1, generator=drawn)
    pixels = bright + 0.3 * torch.randn(count * size, 3, 4, 4, generator=drawn)
    return list(pixels.split(size))


def true_variance(batches: list[Tensor]) -> float:
    """Return the unbiased variance of all values of the first channel, in float64."""
    return float(torch.cat(batches)[:, 0].double().var())


class CorrelatedPixels(Case):
    """Means of batches differ more than values within one: a mean of variances leaves that out."""

    tool = "torch.optim.swa_utils.update_bn"
    what = "running_var (unbiased) over batches of 2 images whose pixels are alike"

    def seen(self, recalibrate: Callable[[nn.Module, list[Tensor]], object]) -> Seen:
        model, batches = net(), images()
        recalibrate(model, batches)
        true, found = true_variance(batches), float(model[0].running_var[0])
        return Seen(f"{found:.3f}, where {true:.3f} is true", right=abs(found - true) < 1e-5 * true)

    def peer(self) -> Seen:
        return self.seen(lambda model, batches: update_bn(batches, model))

    def ours(self) -> Seen:
        return self.seen(xhat.recalibrate_)


class FrozenLayer(Case):
    """Fine-tuning keeps the statistics of the pretrained part."""

    tool = "torch.optim.swa_utils.update_bn"
    what = "a model in training mode with one BN frozen by `.eval()`"

    def seen(self, recalibrate: Callable[[nn.Module, list[Tensor]], object]) -> Seen:
        model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
        model[0].running_var.fill_(2.0)
        model[0].eval()
        recalibrate(model, images(8))
        held = bool((model[0].running_var == 2.0).all()) and not model[0].training
        if held:
            return Seen("kept as it is", held)
        mode = "in training mode" if model[0].training else "in evaluation mode"
        return Seen(f"its running_var goes from 2.00 to {float(model[0].running_var[0]):.2f}, {mode}", held)

    def peer(self) -> Seen:
        return self.seen(lambda model, batches: update_bn(batches, model))

    def ours(self) -> Seen:
        return self.seen(xhat.recalibrate_)


class DictBatches(CorrelatedPixels):
    """As detection and language loaders give them."""

    what = "batches that are dicts"

    def seen(self, recalibrate: Callable[[nn.Module, list[Tensor]], object]) -> Seen:
        batches = images(8)
        model = net()
        try:
            recalibrate(model, [{"input": x} for x in batches])
        except Exception as raised:  # what a tool raises is what is shown
            return Seen(
                f"raises {type(raised).__name__}; momentum is left at {model[0].momentum}", right=False
            )
        right = abs(float(model[0].running_var[0]) - true_variance(batches)) < 1e-5
        return Seen(f"taken, running_var {float(model[0].running_var[0]):.3f}", right)


class RequiresGrad(Case):
    """Statistics are buffers, which no optimiser moves: each forward pass in training mode does."""

    tool = "`requires_grad=False` on γ and β"
    what = "a “frozen” BN in 20 forward passes in training mode"

    def seen(self, freeze: Callable[[nn.Module], object]) -> Seen:
        model = net().train()
        freeze(model)
        for x in images(20):
            model.train()(x + 3)
        mean = float(model[0].running_mean[0])
        return Seen(
            f"running_mean goes from 0 to {mean:.2f}" if mean else "running_mean stays 0", right=mean == 0.0
        )

    def peer(self) -> Seen:
        return self.seen(lambda model: model.requires_grad_(False))

    def ours(self) -> Seen:
        return self.seen(xhat.freeze_)


class EvalUndone(RequiresGrad):
    """`.train()` goes through all modules."""

    tool = "`.eval()` on the layer"
    what = "a frozen BN after the loop's next `.train()`, 20 forward passes"

    def peer(self) -> Seen:
        return self.seen(lambda model: model.eval())


class OneInfinity(Case):
    """An exponential mean never forgets an infinity."""

    tool = "torch.nn.BatchNorm2d"
    what = "one input with an inf, then 200 clean batches"

    def spoiled(self) -> nn.Module:
        model = net().train()
        batches = images(201)
        batches[0][0, 0, 0, 0] = float("inf")
        for x in batches:
            model(x)
        return model

    def peer(self) -> Seen:
        mean = float(self.spoiled()[0].running_mean[0])
        return Seen(f"running_mean is {mean}", right=torch.isfinite(torch.tensor(mean)).item())

    def ours(self) -> Seen:
        model, clean = self.spoiled(), images()
        codes = [finding.code for finding in diagnose(model).findings]
        xhat.recalibrate_(model, clean)
        var = float(model[0].running_var[0])
        right = "BN201" in codes and abs(var - true_variance(clean)) < 1e-5
        return Seen(
            f"`diagnose` says {', '.join(codes)}; after `recalibrate_` running_var is {var:.3f}", right
        )


class Recomputed(Case):
    """A recomputed forward is a forward."""

    tool = "torch.utils.checkpoint"
    what = "updates of the statistics in one step under activation checkpointing"

    def updates(self) -> int:
        model, x = net().train(), images(1)[0].requires_grad_()
        checkpoint(model, x, use_reentrant=False).square().sum().backward()
        return int(model[0].num_batches_tracked)

    def peer(self) -> Seen:
        count = self.updates()
        return Seen(f"{count}", right=count == 1)

    def ours(self) -> Seen:
        model, x = net().train(), images(1)[0].requires_grad_()
        with xhat.update_once(model):
            checkpoint(model, x, use_reentrant=False).square().sum().backward()
        count = int(model[0].num_batches_tracked)
        return Seen(f"{count}, within `update_once`", right=count == 1)


CASES: tuple[Case, ...] = tuple(
    kind()
    for kind in (
        *(ConvolutionTwice, LinearOnThreeAxes, SyncBN, Transposed, GroupedTransposed, LinearWithoutAffine),
        *(CorrelatedPixels, FrozenLayer, DictBatches, RequiresGrad, EvalUndone, OneInfinity, Recomputed),
    )
)
