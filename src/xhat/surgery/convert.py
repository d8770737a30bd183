"""Put group norm in the place of batch norm."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from xhat.errors import UsageError
from xhat.lang import Name, say
from xhat.norms import batch_norms, has_torch_forward, is_uninitialised, replace_
from xhat.surgery._copies import copied
from xhat.surgery._hindrances import has_hooks, held_aside
from xhat.surgery.freeze import is_frozen
from xhat.surgery.result import Change, Refusal, Surgery


def convert_group_norm(model: nn.Module, *, num_groups: int = 32) -> Surgery:
    """Return a copy of the model with ``GroupNorm`` in the place of batch norms.

    γ, β, their ``requires_grad``, eps, device, dtype and the keys of γ and β in ``state_dict`` are kept;
    running statistics go. The outputs change by design, as group norm takes mean and biased variance over the
    channels of a group and the positions of one sample: the network has to be trained on.

    The number of groups is the largest divisor of the channels that is at most ``num_groups`` and leaves two
    channels or more a group, since one channel at a single position would become zero; else one group. Two
    values a group become ±1: where activations have one position, as behind linear layers, take few groups.

    Args:
        model: Any network; it is not changed.
        num_groups: Largest number of groups a layer; 32 is that of the source.

    Returns:
        A ``Surgery`` whose changes say the groups of each layer. Refused are batch norms with a forward of
        their own, hooks or parametrisations, those that a list holds as well, frozen ones, and lazy ones that
        have seen no input.

    Raises:
        UsageError: ``num_groups`` is not positive.
        ModelError: the model cannot be copied.

    Source: Wu and He 2018, Group Normalization, arXiv 1803.08494.
    """
    if num_groups < 1:
        raise UsageError(f"num_groups={num_groups}: a group norm has at least one group")
    model = copied(model)
    changes, refusals, aside = [], [], held_aside(model)
    for name, old in batch_norms(model).items():
        reason = _reason(old) or aside.get(name)
        if reason is not None:
            refusals.append(Refusal(name, reason))
            continue
        new = _group_norm(old, num_groups)
        if old is model:
            model = new.train(old.training)
        else:
            replace_(model, old, new)
        channels = old.num_features // new.num_groups
        what = say(
            "GroupNorm of {groups} of {channels}",
            groups=_groups(new.num_groups),
            channels=_channels(channels),
        )
        changes.append(Change(name, what))
    return Surgery(model, tuple(changes), tuple(refusals), max_abs_error=None)


def _group_norm(old: _BatchNorm, num_groups: int) -> nn.GroupNorm:
    channels = old.num_features
    fitting = (n for n in range(min(num_groups, channels // 2), 0, -1) if channels % n == 0)
    new = nn.GroupNorm(next(fitting, 1), channels, eps=old.eps, affine=False)
    # The parameters themselves: device, dtype, requires_grad and ties to other modules come along.
    new.affine = old.weight is not None
    new.weight, new.bias = old.weight, old.bias
    return new


def _reason(norm: _BatchNorm) -> str | None:
    """Why a batch norm cannot be exchanged; None if it can."""
    if is_frozen(norm):
        return say("its statistics are frozen: call xhat.unfreeze_ first")
    if is_uninitialised(norm):
        return say(
            "it is lazy and has seen no input, so its channels are not known: run the model once first"
        )
    if parametrize.is_parametrized(norm):
        return say("it is parametrised: call torch.nn.utils.parametrize.remove_parametrizations first")
    if not has_torch_forward(norm):
        return say(
            "{kind} computes something of its own, which GroupNorm would leave out",
            kind=Name(type(norm).__name__),
        )
    if has_hooks(norm):
        return say("it has hooks, which may change what it computes: remove them first")
    return None


def _groups(count: int) -> str:
    return say("1 group") if count == 1 else say("{count} groups", count=count)


def _channels(count: int) -> str:
    return say("1 channel") if count == 1 else say("{count} channels", count=count)
