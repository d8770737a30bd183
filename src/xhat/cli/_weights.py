"""Weights read from files without unpickling, and written as safetensors."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xhat.errors import ModelError, UsageError
from xhat.files import replacing
from xhat.lang import Name, listed, say

# Where training scripts put the state_dict in a checkpoint, and what wrappers put before its keys.
_INSIDE = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_NAMED = 5  # keys that a message names


def load_weights_(model: nn.Module, path: Path) -> list[str]:
    """Load the file's state_dict into the model, every key of both.

    A checkpoint may hold it under ``state_dict``, ``model_state_dict`` or ``model``; the prefixes of DDP and of
    ``torch.compile`` are taken off where all keys have them.

    Returns:
        What was taken of the file, where that is not the whole as it stands.

    Raises:
        UsageError: there is no such file.
        ModelError: it cannot be read without unpickling, or its keys or shapes are not the model's.
    """
    notes: list[str] = []
    state = _stripped(_read(path, notes), model, notes)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {_shapes(model, state)}") from error
    missing = _not_shared(model, missing, state)
    if missing or unexpected:
        wrong = [f"{_some(missing)} missing"] if missing else []
        wrong += [f"{_some(unexpected)} not in the model"] if unexpected else []
        raise ModelError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(wrong)}. A partly loaded network would be "
            "judged by its random rest: name the callable that makes the network that these weights are of."
        )
    return notes


def save_weights(model: nn.Module, path: Path) -> None:
    """Write every tensor of the model's state_dict as safetensors, beside its place and renamed into it."""
    held = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    # safetensors refuses tensors that share memory, as tied weights do.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in held.items()}
    with replacing(path) as part:
        save_file(state, part)


def _read(path: Path, notes: list[str]) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; --weights names a .safetensors or a torch.save file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        held = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # a damaged file makes torch's unpickler raise whatever comes
        if isinstance(error, UnpicklingError) and _is_torchs(path):
            raise ModelError(
                f"{path} holds more than weights, as a whole pickled network. That is not loaded, since it runs code "
                "of the file: where you trust it, load it in Python and torch.save(model.state_dict(), path)."
            ) from error
        raise ModelError(
            f"{path} is no weights file, or a damaged one: needed is safetensors, or what "
            "torch.save(model.state_dict(), path) writes."
        ) from error
    if isinstance(held, Mapping):
        for key in _INSIDE:
            if isinstance(held.get(key), Mapping):
                others = [name for name, value in held.items() if name != key and isinstance(value, Mapping)]
                notes.append(say("weights are those under “{key}” in {path}", key=Name(key), path=Name(path)))
                if others:
                    notes.append(say("left aside: {others}", others=listed(map(Name, others), ", ")))
                held = held[key]
                break
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ModelError(
            f"{path} holds a {type(held).__name__} that is no state_dict; save one with "
            "torch.save(model.state_dict(), path)."
        )
    return dict(held)


def _is_torchs(path: Path) -> bool:
    """Whether torch.save may have written the file: a zip archive, or formerly a pickle."""
    with path.open("rb") as file:
        return is_zipfile(path) or file.read(1) == b"\x80"


def _stripped(state: dict[str, Tensor], model: nn.Module, notes: list[str]) -> dict[str, Tensor]:
    known = model.state_dict().keys()
    changed = True
    while changed and state and not known >= state.keys():
        changed = False
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state, changed = {key.removeprefix(prefix): value for key, value in state.items()}, True
                notes.append(say("the prefix “{prefix}” of its keys is taken off", prefix=Name(prefix)))
    return state


def _not_shared(model: nn.Module, missing: Iterable[str], state: Mapping[str, Tensor]) -> list[str]:
    """Return the missing keys whose tensor was not loaded under another key: files leave out the doubles."""
    held = {
        key: value for key, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)
    }
    loaded = {id(value) for key, value in held.items() if key in state}
    return [key for key in missing if key not in held or id(held[key]) not in loaded]


def _shapes(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    own: dict[str, Any] = model.state_dict()
    wrong = [
        f"{key} is {tuple(state[key].shape)}, needed is {tuple(own[key].shape)}"
        for key in own
        if key in state and isinstance(own[key], Tensor) and own[key].shape != state[key].shape
    ]
    return _some(wrong) if wrong else "its tensors cannot be copied into the model's"


def _some(parts: list[str]) -> str:
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return ", ".join(parts[:_NAMED]) + more
