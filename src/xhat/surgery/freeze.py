"""Freeze batch norms so that they stay frozen: constant statistics, constant γ and β, or both."""

from collections.abc import Callable
from types import new_class
from typing import Any, Self

from torch import nn
from torch.nn.utils import parametrize

from xhat.errors import ModelError, UsageError
from xhat.norms import batch_norms, is_uninitialised

# Where a frozen layer keeps what unfreeze_ puts back. A plain dict, so that it goes along with copies and
# pickles: "training" is the mode last asked for, "weight" and "bias" the earlier requires_grad.
_BEFORE = "_xhat_before_freeze"


def freeze_(model: nn.Module, *, statistics: bool = True, affine: bool = False) -> nn.Module:
    """Freeze every batch norm of the model, in place, until ``unfreeze_``.

    With frozen statistics a layer normalises with its running mean and (unbiased) running variance and never
    updates them, as in evaluation mode, whatever ``.train()`` is called on; ``reset_running_stats`` keeps them
    too. Gradients flow on to its input, γ and β. With frozen affine parameters γ and β no longer want a
    gradient, and the one they hold is dropped: an optimiser would go on to move them by it.

    Keys of ``state_dict`` and ``isinstance`` stay; ``repr`` shows ``FrozenBatchNorm2d``. Copies and pickles
    stay frozen; a pickle needs xhat to be loaded. A second call adds to what is frozen. A subclass of
    torch's layers must look at ``self.training``, as theirs do, for its statistics to stay.

    Args:
        model: The model, or one batch norm, of any kind that derives from torch's; left in its mode.
        statistics: Freeze running_mean, running_var and num_batches_tracked.
        affine: Freeze γ and β.

    Returns:
        The model itself.

    Raises:
        UsageError: there is nothing to freeze.
        ModelError: a batch norm has no running statistics to normalise with, or is parametrised. No layer is
            changed then.
    """
    if not (statistics or affine):
        raise UsageError("statistics=False and affine=False leave nothing to freeze: set one of them")
    layers = batch_norms(model)
    if not layers:
        raise UsageError(f"{type(model).__name__} has no batch norm that could be frozen")
    for name, layer in layers.items():
        _check(name, layer, statistics)
    found = {layer: _state(layer, statistics, affine) for layer in layers.values()}
    # Only now, since two layers may share γ or β and both have to remember the first state.
    for layer, state in found.items():
        vars(layer)[_BEFORE] = state
        if statistics:
            _into(layer, _frozen_class(type(layer)))
            layer.training = False
        if affine:
            for parameter in _affine(layer).values():
                parameter.requires_grad_(False).grad = None
    return model


def unfreeze_(model: nn.Module) -> nn.Module:
    """Undo ``freeze_``, in place: class, ``requires_grad`` of γ and β, and the mode of the rest of the model.

    Layers that are not frozen are left alone.

    Args:
        model: The model that was frozen, or a part of it.

    Returns:
        The model itself.

    Raises:
        ModelError: a layer was parametrised while it was frozen. No layer is changed then.
    """
    layers = {
        name: layer
        for name, layer in batch_norms(model).items()
        if _BEFORE in vars(layer) or is_frozen(layer)
    }
    for name, layer in layers.items():
        _check(name, layer, statistics=False)
    # A layer's mode is that of the module that holds it; the model itself has none and takes the last asked for.
    modes = {
        child: holder.training
        for holder in model.modules()
        for child in holder.children()
        if not is_frozen(holder)
    }
    for layer in layers.values():
        before = vars(layer).pop(_BEFORE, {})  # a user's __getstate__ may have dropped it
        if is_frozen(layer):
            _into(layer, type(layer).__mro__[2])
            layer.training = modes.get(layer, before.get("training", True))
        for name, parameter in _affine(layer).items():
            parameter.requires_grad_(before.get(name, parameter.requires_grad))
    return model


def is_frozen(module: nn.Module) -> bool:
    """Whether the module is a batch norm whose statistics ``freeze_`` has frozen."""
    return isinstance(module, _Frozen)


class _Frozen(nn.Module):
    """What a frozen layer's class has before its own: it stays in evaluation mode, and pickles by its own class."""

    def __init_subclass__(cls, **_: Any) -> None:
        """Keep a user's ``__init_subclass__``, which may register the class, from seeing ours."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)  # what a user's batch norm holds follows
        vars(self).setdefault(_BEFORE, {})["training"] = mode
        self.training = False
        return self

    def reset_running_stats(self) -> None:
        """Keep them: ``torch.optim.swa_utils.update_bn`` asks every batch norm to forget its own."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(protocol)
        if isinstance(reduced, str):
            return reduced
        frozen, own = type(self), type(self).__mro__[2]
        function, arguments, *rest = reduced
        # The class made at run time has no name to be found under, so its own class is pickled in its place.
        function, *arguments = (own if part is frozen else part for part in (function, *arguments))
        return (_rebuild, (function, tuple(arguments)), *rest)


def _frozen_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class whose instances are frozen ones of ``kind``, made at its first use."""
    if issubclass(kind, _Frozen):
        return kind
    bases = (_Frozen, kind)
    for known in kind.__subclasses__():
        if known.__bases__ == bases:
            return known
    names = {
        "__module__": kind.__module__,
        "__qualname__": f"Frozen{kind.__name__}",
        "__doc__": f"{kind.__name__} that keeps its running statistics.",
    }
    return new_class(f"Frozen{kind.__name__}", bases, exec_body=lambda body: body.update(names))


def _rebuild(function: Callable[..., nn.Module], arguments: tuple[Any, ...]) -> nn.Module:
    """Make a frozen layer, whose state follows; pickles name this function."""
    layer = function(*arguments)
    _into(layer, _frozen_class(type(layer)))
    vars(layer)["training"] = False
    return layer


def _into(layer: nn.Module, kind: type[nn.Module]) -> None:
    object.__setattr__(layer, "__class__", kind)  # past nn.Module's, which a user's class may override


def _affine(layer: nn.Module) -> dict[str, nn.Parameter]:
    """γ and β, as far as the layer has them, by name."""
    found = {name: layer._parameters.get(name) for name in ("weight", "bias")}
    return {name: parameter for name, parameter in found.items() if parameter is not None}


def _state(layer: nn.Module, statistics: bool, affine: bool) -> dict[str, bool]:
    """What to remember of a layer, on top of what was remembered before."""
    now, before = {}, vars(layer).get(_BEFORE, {})
    if statistics:
        now["training"] = layer.training
    if affine:
        now |= {name: parameter.requires_grad for name, parameter in _affine(layer).items()}
    return {**now, **before}


def _check(name: str, layer: nn.Module, statistics: bool) -> None:
    where = f"batch norm {name!r}" if name else "the batch norm"
    if parametrize.is_parametrized(layer):
        raise ModelError(
            f"{where} is parametrised, which gives it a class of its own that cannot be exchanged: call "
            "torch.nn.utils.parametrize.remove_parametrizations first. No layer was changed."
        )
    if not statistics:
        return
    if is_uninitialised(layer):
        raise ModelError(
            f"{where} is lazy and has seen no input, so there are no statistics to freeze: run the model once "
            "first. No layer was changed."
        )
    if layer.running_mean is None or layer.running_var is None:
        raise ModelError(
            f"{where} has no running statistics (track_running_stats=False) and would normalise with each "
            "batch's own, frozen or not: freeze a part of the model without it, or track its statistics "
            "first. No layer was changed."
        )
