"""A user's factory that knows nothing of norms: the other arm is made by surgery."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from xhat.errors import ModelError
from xhat.norms import batch_norms
from xhat.surgery import Surgery, add_batch_norm, remove_batch_norm

EXAMPLES = 16  # samples that the network's data flow is recorded with


def takes_norm(factory: Callable[..., Any]) -> bool:
    """Whether a factory wants to be told which normalisation: by a parameter that has no default, or ``norm``."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some callables of C have no signature
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        p.name == "norm" or (p.kind in positional and p.default is p.empty) or p.kind is p.VAR_POSITIONAL
        for p in parameters
    )


def with_norm(model: nn.Module, norm: str, name: str, examples: Tensor) -> nn.Module:
    """Return a user's network as it is, or its twin with or without batch norm.

    Args:
        model: The network; with batch norm or without.
        norm: ``batch`` or ``none``.
        name: What the user calls it, for messages.
        examples: (N, …), some of the data's inputs.

    Raises:
        ModelError: ``norm`` is another one, or the twin cannot be made: a batch norm would stay, or a layer that needs
            one could get none.
    """
    if norm not in ("batch", "none"):
        raise ModelError(
            f"{name} takes no norm, so xhat makes its twin with or without batch norm; this claim needs {norm!r} "
            "too. Let it take norm and build that network."
        )
    if (norm == "batch") == bool(batch_norms(model)):
        return model
    if norm == "none":
        made = remove_batch_norm(model, examples)
        if made.refusals:
            raise _failed(name, "without", made)
    else:
        made = add_batch_norm(model, examples)
        if not made.changes or any(not left.needless for left in made.refusals):
            raise _failed(name, "with", made)
    return made.model


def _failed(name: str, which: str, made: Surgery) -> ModelError:
    hindering = [left for left in made.refusals if not left.needless] or made.refusals
    reasons = "; ".join(f"{left.module}: {left.reason}" for left in hindering[:3])
    return ModelError(
        f"xhat cannot make the twin of {name} {which} batch norm ({reasons or 'it has no layer to put one behind'}). "
        "Let the callable take norm, and return the network with BN for 'batch' and without for 'none'."
    )
