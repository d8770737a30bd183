"""Find the batch norms of a model, and put other modules in their place."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

_TORCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TORCH_FORWARDS = {_BatchNorm.forward, *(kind.forward for kind in _TORCH)}


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the module is torch's batch norm or derives from it, synchronised and lazy ones included."""
    return isinstance(module, _BatchNorm)


def is_fixed_norm(module: nn.Module) -> bool:
    """Whether the module is a batch norm of constant statistics, as detection libraries write it.

    That is: of a class named ``FrozenBatchNorm…``, not torch's, with buffers running_mean and running_var.
    """
    return (
        not is_batch_norm(module)
        and type(module).__name__.startswith("FrozenBatchNorm")
        and all(isinstance(getattr(module, name, None), Tensor) for name in ("running_mean", "running_var"))
    )


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the model's batch norms by full name; one that has several names stands under its first."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def normalisers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the same with the batch norms of constant statistics, as of ``is_fixed_norm``."""
    return {
        name: module
        for name, module in model.named_modules()
        if is_batch_norm(module) or is_fixed_norm(module)
    }


def is_uninitialised(module: nn.Module) -> bool:
    """Whether the module is a lazy batch norm that has not seen an input."""
    return isinstance(module, _LazyNormBase) and module.has_uninitialized_params()


def has_torch_forward(module: nn.Module) -> bool:
    """Whether a batch norm computes what torch's does: its ``forward`` is not overridden."""
    return type(module).forward in _TORCH_FORWARDS and "forward" not in vars(module)


def replace_(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in the place of ``old`` wherever a module of the model holds it; the mode is taken over.

    Raises:
        ValueError: the model is ``old`` itself, so that nothing holds it.
    """
    if model is old:
        raise ValueError("the model itself cannot be replaced within itself")
    new.train(old.training)
    for holder in list(model.modules()):
        for key, child in list(holder._modules.items()):
            if child is old:
                holder._modules[key] = new
