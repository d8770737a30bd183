"""Which batch norms directly follow their only convolution or linear: judged without xhat.dataflow.

One run in eval mode under a dispatch mode that notes who reads and who writes each storage. All tensors are kept
alive meanwhile, so that an address means one storage. Small on purpose: it is a second opinion.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TORCH_FORWARDS = {
    kind.forward
    for kind in (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        *(nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    )
}


@dataclass(frozen=True)
class Follows:
    """A batch norm and the layer before it."""

    layer: str
    plain: bool  # both compute as torch's own classes do, with running statistics


@dataclass
class _Made:
    """What a layer put out in its only call."""

    layer: str
    storage: int
    writes: int
    channels: tuple[int, int]  # size and stride of the channel axis


@dataclass
class _Notes(TorchDispatchMode):
    """Readers and writers of every storage, and where in the model they stand."""

    readers: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    writes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    inside: list[str] = field(default_factory=list)  # names of the batch norms under way
    alive: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        outputs = _tensors(made)
        mutates = func._schema.is_mutable
        sources = {_storage(x) for x in _tensors((args, kwargs))}
        if mutates and args:
            for x in _tensors(args[:1]) + _tensors((kwargs or {}).get("out")):
                self.writes[_storage(x)] += 1
        if mutates or not {_storage(x) for x in outputs} & sources:  # else a view: data movement
            for source in sources:
                self.readers[source].append(self.inside[-1] if self.inside else "")
        self.alive += outputs
        return made


def follows(model: nn.Module, *inputs: Tensor) -> dict[str, Follows]:
    """Return, by name, the batch norms whose input is what one layer made that nothing else reads."""
    notes = _Notes()
    made: dict[str, list[_Made]] = defaultdict(list)
    entered: dict[str, list[tuple[int, int, tuple[int, int] | None]]] = defaultdict(list)
    modules = dict(model.named_modules())
    hooks = []

    def leave_layer(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor):  # a class of its own, that puts out more
                return
            axis = -1 if isinstance(module, nn.Linear) else _channel_axis(module, output)
            place = _storage(output)
            made[name].append(
                _Made(name, place, notes.writes[place], (output.shape[axis], output.stride(axis)))
            )

        return hook

    def enter_norm(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            x = args[0]
            place = _storage(x)
            axis = (x.shape[1], x.stride(1)) if x.ndim > 1 else None
            entered[name].append((place, notes.writes[place], axis))
            notes.inside.append(name)

        return hook

    def leave_norm(module: nn.Module, args: Any, output: Any) -> None:
        notes.inside.pop()

    for name, module in modules.items():
        if isinstance(module, _ConvNd | nn.Linear):
            hooks.append(module.register_forward_hook(leave_layer(name)))
        elif isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(enter_norm(name)))
            hooks.append(module.register_forward_hook(leave_norm))
    try:
        with torch.no_grad(), notes:
            outputs = {_storage(x) for x in _tensors(model(*inputs))}
    finally:
        for hook in hooks:
            hook.remove()

    by_storage = {calls[0].storage: calls[0] for calls in made.values() if len(calls) == 1}
    found = {}
    for name, calls in entered.items():
        if len(calls) != 1:
            continue
        place, writes, axis = calls[0]
        before = by_storage.get(place)
        alone = set(notes.readers[place]) == {name} and place not in outputs
        if before and alone and before.writes == writes and before.channels == axis:
            plain = _plain(modules[before.layer]) and _plain(modules[name])
            found[name] = Follows(before.layer, plain)
    return found


def _plain(module: nn.Module) -> bool:
    fixed = module.running_mean is not None if isinstance(module, _BatchNorm) else True
    as_is = not hasattr(module, "parametrizations") and not module._forward_pre_hooks
    return fixed and as_is and type(module).forward in TORCH_FORWARDS and "forward" not in vars(module)


def _channel_axis(module: nn.Module, output: Tensor) -> int:
    return 1 if output.ndim == module.weight.ndim else 0  # without a batch axis


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
