"""How a model is run for what it computes alone."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def eagerly() -> Iterator[None]:
    """Run models without gradients, outside of inference mode, and as they are written where they are compiled.

    Hooks do not fire in compiled code, and what inference mode makes could be kept by a module and never trained.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        # Importing the compiler takes seconds, and where nobody has, nothing is compiled.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
