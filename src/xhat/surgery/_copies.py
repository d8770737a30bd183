"""The copy that surgery works on, and the model's outputs before it."""

import copy

from torch import Tensor, nn

from xhat.errors import ModelError
from xhat.surgery._trial import Arguments, run


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of the model, of the module inside where it is wrapped for distributed training.

    Raises:
        ModelError: it cannot be copied.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    try:
        return copy.deepcopy(model)
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
            "mode. Pass inputs that the model can be called with, keyword arguments in kwargs={...}."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
