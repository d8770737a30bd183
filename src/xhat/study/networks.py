"""From a spec to a network with its initial weights: ours by name, or a user's by ``module:callable``."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xhat.data import TensorData, load_callable
from xhat.errors import ModelError, unknown
from xhat.models import MLP, VGG, DeepLinear, Ensemble, ResNet, initialise_
from xhat.study.spec import FIRST_SEED, Member, Network
from xhat.study.twins import EXAMPLES, takes_norm, with_norm

NETWORKS = ("mlp", "vgg", "resnet", "deep-linear")


def build(
    network: Network, members: tuple[Member, ...], data: TensorData | None, folder: Path | None = None
) -> nn.Module:
    """Return the network with its members' initial weights.

    The weights hang on the seed alone: arms that differ only in their normalisation start from the same
    ones. Seeds the global generators; the caller puts them back.

    Args:
        network: Which, with which normalisation.
        members: One, or for an ensemble many.
        data: Gives the shape of inputs and the number of classes; None for the deep linear network.
        folder: Where a user's module is looked for.

    Raises:
        UsageError: there is no network of that name.
        ModelError: the user's network cannot be made.
    """
    modules = [_build_member(network, member, data, folder) for member in members]
    return Ensemble(modules) if network.is_ensemble else modules[0]  # type: ignore[arg-type]


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python: a user's network may draw from any of them."""
    seed += FIRST_SEED
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def _build_member(
    network: Network, member: Member, data: TensorData | None, folder: Path | None
) -> nn.Module:
    seed_everything(member.seed)
    users = ":" in network.name
    model = _build_users(network, member, data, folder) if users else _build_ours(network, data)
    initialise_(model, member.init, scale=member.scale, output_scale=member.output_scale)
    return model


def _build_ours(network: Network, data: TensorData | None) -> nn.Module:
    options: dict[str, Any] = dict(network.options)
    if network.name == "deep-linear":
        return DeepLinear(norm=network.norm, **options)
    if network.name not in NETWORKS or data is None:
        raise unknown("network", network.name, NETWORKS)
    shape = data.train_x.shape[1:]
    if network.name == "mlp":
        return MLP(shape.numel(), data.classes, norm=network.norm, **options)
    convolutional = VGG if network.name == "vgg" else ResNet
    return convolutional(shape[0], data.classes, norm=network.norm, **options)


def _build_users(network: Network, member: Member, data: TensorData | None, folder: Path | None) -> nn.Module:
    factory = load_callable(network.name, folder)
    model = make_users(factory, network, data)
    if network.norm == "none":
        return model
    # A normalisation layer may draw numbers and so shift the draws of later layers: start from the
    # weights of the plain twin, or of the network that a twin is made of, where the shapes allow it.
    seed_everything(member.seed)
    _copy_weights(make_users(factory, network.with_norm("none"), data), model)
    return model


def make_users(factory: Callable[..., Any], network: Network, data: TensorData | None) -> nn.Module:
    """Call a user's factory with the network's normalisation; where it takes none, make the twin that is asked.

    Raises:
        ModelError: the factory raises, returns something else than a module, or has no twin.
    """
    told = takes_norm(factory)
    words = f"{network.name}({network.norm!r})" if told else f"{network.name}()"
    try:
        model = factory(network.norm) if told else factory()
    except Exception as error:
        raise ModelError(
            f"{words} raised {type(error).__name__}: {error}. A model callable takes norm, at least 'batch' and "
            "'none', or nothing, and returns the network."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{words} returned {type(model).__name__}, not a torch.nn.Module")
    if told:
        return model
    if data is None:
        raise ModelError(f"{network.name} takes no norm: its twin cannot be made without data")
    return with_norm(model, network.norm, network.name, data.train_x[:EXAMPLES])


@torch.no_grad()
def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    from_, to = ([p for p in model.parameters() if p.dim() > 1] for model in (source, target))
    if [p.shape for p in from_] == [p.shape for p in to]:
        for weight, copy in zip(from_, to, strict=True):
            copy.copy_(weight)
