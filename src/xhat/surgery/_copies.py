"""The copy that surgery works on, and the model's outputs before it."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xhat.errors import ModelError
from xhat.surgery._duplicate import duplicate
from xhat.surgery._trial import Arguments, run
from xhat.unchanged import unchanged

P = ParamSpec("P")
R = TypeVar("R")


def leaves_model(
    surgery: Callable[Concatenate[nn.Module, P], R],
) -> Callable[Concatenate[nn.Module, P], R]:
    """Wrap an operation that works on a copy of its model, so that the model and all randomness stay.

    A copy may run the model itself: a function that was set as ``forward``, and knows the model from outside,
    is not copied. Under ``torch.inference_mode`` the copy's parameters could never be trained.
    """

    @wraps(surgery)
    def wrapped(model: nn.Module, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False):
            if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
                return surgery(model, *args, **kwargs)  # there is nothing yet that could change
            with unchanged(model):
                return surgery(model, *args, **kwargs)

    return wrapped


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of the model, of the module inside where it is wrapped for distributed training.

    Raises:
        ModelError: it cannot be copied.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    try:
        return duplicate(model)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}), and surgery works on a "
            "copy. Make a new model, load the weights into it, and pass that."
        ) from error


def outputs_of(model: nn.Module, arguments: Arguments) -> list[Tensor]:
    """Return the outputs in evaluation mode; the modules' modes are put back. Lazy modules are initialised.

    Raises:
        ModelError: the model raises.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        return run(model.eval(), arguments)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} raised {type(error).__name__}: {error} on the example inputs in evaluation "
            "mode. Mend the model, or pass inputs that it takes, in Python keyword arguments in kwargs={...}."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
