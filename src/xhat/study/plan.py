"""What was asked, turned into a context and a list of claims and laws; names are checked before any work."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from xhat.data import TensorData, callable_digest, load, load_callable
from xhat.errors import ModelError, UsageError, unknown
from xhat.lang import listed, say
from xhat.study.claim import PRESETS, Claim, Context
from xhat.study.claims import CLAIMS
from xhat.study.devices import check_device
from xhat.study.laws import LAWS
from xhat.study.networks import make_users
from xhat.study.spec import LawSpec, Network, Spec, run_key
from xhat.study.subjects import users
from xhat.study.verdict import MIN_PAIRS

Named = str | Callable[..., Any]
MIN_STEPS = 10


@dataclass(frozen=True)
class Plan:
    """A study before it begins."""

    context: Context
    claims: tuple[Claim, ...]
    laws: tuple[str, ...]
    folder: Path  # where a user's modules are looked for
    asked: str
    subject: str
    device: str = "cpu"  # where networks train

    def key(self, spec: Spec) -> str:
        """Return the run's key, over the spec and what it only names: data and a user's source."""
        if isinstance(spec, LawSpec):
            return run_key(spec)
        digests = []
        if spec.network.name != "deep-linear":
            digests.append(load(spec.data.name, folder=self.folder).digest)
        if ":" in spec.network.name:
            digests.append(callable_digest(spec.network.name, self.folder))
        return run_key(spec, digests=tuple(digests))


def make_plan(
    preset: str,
    *,
    claims: Iterable[str] | None,
    model: Named | None,
    data: Named | None,
    seeds: int | None,
    steps: int | None,
    folder: Path | None,
    device: str = "cpu",
    elsewhere: bool = False,
) -> Plan:
    """Check what was asked, and load the user's network and the data once.

    Raises:
        UsageError: an unknown preset, claim, data or device name, with the nearest ones; a claim that
            cannot take a user's network; ``paper`` without CIFAR-10's folder; a device that is missing here,
            unless runs are done ``elsewhere``.
        ModelError: the user's module fails.
        DataError: data that are missing or damaged.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if seeds is not None and seeds < MIN_PAIRS:
        raise UsageError(f"{seeds} seeds decide nothing; ask for {MIN_PAIRS} at least, or leave --seeds out")
    if steps is not None and steps < MIN_STEPS:
        raise UsageError(f"{steps} steps train nothing; ask for {MIN_STEPS} at least, or leave --steps out")
    check_device(device, present=not elsewhere)
    where = (folder or Path.cwd()).resolve()
    model_name, data_name = _name(model, "model"), _name(data, "data")
    user = users(preset, model_name, data_name or "") if model_name else None
    if user is None and preset == "paper" and not (data_name or "").startswith("cifar10:"):
        raise UsageError("the preset paper needs CIFAR-10's binary files: --data cifar10:FOLDER")
    chosen, laws = _choose(claims, users_network=user is not None)
    loaded = load(data_name, folder=where) if data_name else None
    if model_name:
        _check_model(model_name, where, loaded)
    words: list[str] = [c.text.id for c in chosen] + list(laws)
    if claims is None:
        words = [say("{count} claims of the notes", count=len(chosen))]
        words += [say("{count} laws", count=len(laws))] if laws else []
    return Plan(
        context=Context(preset, user=user, data=None if user else data_name, seeds=seeds, steps=steps),
        claims=chosen,
        laws=laws,
        folder=where,
        asked=say("Do these hold: {what}?", what=listed(words, ", ")),
        subject=" on ".join(filter(None, (model_name, data_name))),
        device=device,
    )


def _check_model(name: str, folder: Path, data: TensorData | None) -> None:
    """Make the user's network once with BN and once without, and see that they differ."""
    if ":" not in name:
        raise UsageError(f"{name!r} does not name a network of yours: write module:callable")
    factory = load_callable(name, folder)
    with torch.random.fork_rng(devices=[]):
        made = [make_users(factory, Network(name, norm), data) for norm in ("batch", "none")]
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in made]
    if repr(made[0]) == repr(made[1]) and shapes[0] == shapes[1]:
        raise ModelError(
            f"{name} returns the same network for 'batch' and for 'none': with nothing to compare, every "
            "effect would be none. Let it put BN in for 'batch' and leave it out for 'none'."
        )


def _choose(asked: Iterable[str] | None, *, users_network: bool) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    if asked is None:
        claims = tuple(claim for claim in CLAIMS.values() if claim.takes_networks or not users_network)
        return claims, () if users_network else tuple(LAWS)
    found: dict[str, None] = {}
    for pattern in [asked] if isinstance(asked, str) else asked:
        matches = [name for name in (*CLAIMS, *LAWS) if fnmatchcase(name, pattern)]
        if not matches:
            raise unknown("claim or law", pattern, [*CLAIMS, *LAWS])
        found |= dict.fromkeys(matches)
    claims = tuple(CLAIMS[name] for name in found if name in CLAIMS)
    for claim in claims:
        if users_network and not claim.takes_networks:
            able = ", ".join(c.text.id for c in CLAIMS.values() if c.takes_networks)
            raise UsageError(
                f"{claim.text.id} needs networks that it builds itself and takes no --model. These claims do: "
                f"{able}."
            )
    return claims, tuple(name for name in found if name in LAWS)


def _name(named: Named | None, what: str) -> str | None:
    if named is None or isinstance(named, str):
        return named
    module, name = getattr(named, "__module__", ""), getattr(named, "__qualname__", "")
    if not module or module == "__main__" or "<" in name:
        raise UsageError(
            f"the {what} callable {named!r} cannot be found by worker processes: put it in a module of its "
            "own and name it as 'module:callable'"
        )
    return f"{module}:{name}"
