"""Update running statistics once per optimiser step, however many forward passes a step takes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from xhat.errors import ModelError, UsageError
from xhat.norms import batch_norms
from xhat.unchanged import probe_depth

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def update_once(model: nn.Module) -> Iterator[None]:
    """Let every batch norm update its running statistics at most once per optimiser step.

    Within the block a layer updates them in its first training forward since the block began, or since the
    last step of an optimiser that owns a parameter of the model. In its further ones, as the recomputation of
    ``torch.utils.checkpoint`` (of both kinds), SAM's second pass or a second view for a consistency loss, it
    normalises with its batch's statistics as always, and running_mean, running_var and num_batches_tracked
    stay bit for bit. Layers that are frozen or in evaluation mode are not concerned.

    What follows from "once per step":

    - under gradient accumulation only the first microbatch of a step counts;
    - of a layer that one forward pass calls several times, only the first call counts;
    - a step that a gradient scaler skips is none: the next pass does not count;
    - an optimiser that is not a ``torch.optim.Optimizer``, or that holds copies of the parameters, is not
      noticed: the block is then one step. Put a block around each;
    - compiled code does not see the block unless it is compiled, by its first call, within it.

    Blocks may be nested; an update then needs the leave of each. On the way out, all hooks are removed.

    Args:
        model: The model, wrapped by DistributedDataParallel or not; batch norms that are added to it
            within the block are not concerned.

    Raises:
        UsageError: the model has no batch norm.
        ModelError: the model or a part of it is compiled already.
    """
    layers = batch_norms(model)
    if not layers:
        raise UsageError(f"{type(model).__name__} has no batch norm whose statistics could be updated")
    _refuse_compiled(model)
    once = _Once(layers.values())

    def stepped(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        own = set(map(id, model.parameters()))
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            once.updated.clear()

    handles: list[RemovableHandle] = []
    try:
        handles.append(register_optimizer_step_post_hook(stepped))
        for layer in layers.values():
            # Last before the forward and first behind it, so that other hooks see the layer's own buffers.
            handles.append(layer.register_forward_pre_hook(once.before))
            handles.append(layer.register_forward_hook(once.after, prepend=True, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers.values():
            once.put_back(layer)


class _Once:
    """Which layers have updated their statistics since the last step, and the buffers kept from others."""

    def __init__(self, layers: Iterable[nn.Module] = ()) -> None:
        self.layers = set(layers)
        self.updated: set[nn.Module] = set()
        self.kept: dict[nn.Module, dict[str, Tensor]] = {}
        self.depth = probe_depth()

    def __reduce__(self) -> Any:
        return _Once, ()  # in a copy of the model, or a pickle, the hooks do nothing

    def before(self, layer: nn.Module, _args: Any) -> None:
        self.put_back(layer)  # in case Ctrl-C ended the last call: torch calls no hook then
        if layer not in self.layers or not layer.training or self._in_probe():
            return
        if layer in self.updated:
            kept = self.kept[layer] = {}
            for name in _STATISTICS:
                buffer = layer._buffers.get(name)
                if buffer is not None:
                    # The call updates a copy. momentum=0 would not do: 0·inf is NaN.
                    kept[name], layer._buffers[name] = buffer, buffer.clone()
        self.updated.add(layer)

    def _in_probe(self) -> bool:
        """Whether a probe runs, which undoes what it does. Compiled code cannot ask; there all passes count."""
        return not torch.compiler.is_compiling() and probe_depth() > self.depth

    def after(self, layer: nn.Module, _args: Any, _output: Any) -> None:
        self.put_back(layer)

    def put_back(self, layer: nn.Module) -> None:
        layer._buffers.update(self.kept.pop(layer, {}))


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        # An OptimizedModule holds its model under this name; to import its class takes a second.
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise ModelError(
                f"{repr(name) if name else 'the model'} is compiled already. Compiled code does not see hooks "
                "that come later, so statistics would go on to be updated in every forward pass. Pass the "
                "model as it was before, and call torch.compile within the block."
            )
