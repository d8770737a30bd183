"""What a run is, as typed data: its key in the store is a hash of all that decides its numbers."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

import xhat

if TYPE_CHECKING:
    from xhat.study.scene import Scene
    from xhat.study.store import Arrays

Option = str | int | float

# Seed s of a study draws from generators seeded with FIRST_SEED + s. Seeds below were used while the
# protocols were still being mended: no verdict rests on a run that was seen before its rule stood.
FIRST_SEED = 2000


@dataclass(frozen=True)
class Network:
    """A network by name: "mlp", "vgg", "resnet", "deep-linear", or a user's "module:callable"."""

    name: str
    norm: str = "batch"
    options: tuple[tuple[str, Option], ...] = ()

    def with_norm(self, norm: str) -> "Network":
        """Return the same network with another normalisation."""
        return replace(self, norm=norm)

    def with_options(self, **options: Option) -> "Network":
        """Return the same network with other options, or with more of them."""
        return replace(self, options=tuple({**dict(self.options), **options}.items()))

    @property
    def is_ensemble(self) -> bool:
        """Whether many members train as one batched computation."""
        return self.name in ("mlp", "deep-linear")


@dataclass(frozen=True)
class Data:
    """A data set by name, cut to at most ``train`` and ``test`` samples, images pooled by ``pool``.

    With ``raw`` the inputs are not standardised but lie between 0 and 1.
    """

    name: str = "fashion-mnist"
    train: int | None = None
    test: int | None = None
    pool: int = 1
    raw: bool = False


@dataclass(frozen=True)
class Member:
    """What may differ between the members of one ensemble."""

    seed: int
    lr: float
    init: str = "he"
    scale: float = 1.0  # multiplies the initial weights
    decay: float = 0.0  # λ of w ← w − η(∇L + λw), for weights only: not for biases, γ and β
    output_scale: float | None = None  # in place of ``scale`` for the output layer, the last linear one


@dataclass(frozen=True)
class Probe:
    """Walk along the gradient before the given steps, at step sizes ``ratios`` times the learning rate."""

    at: tuple[int, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Record:
    """Record layer distributions on a fixed batch of ``batch`` training samples before the given steps."""

    at: tuple[int, ...]
    batch: int = 256
    layers: tuple[str, ...] | None = None  # full names; None: every layer with weights


class Measure(Protocol):
    """What a run measures before the steps ``at``; the number of steps stands for the end.

    A frozen dataclass in ``study/measures``; ``kind`` is one of its fields, so that the key tells measures
    apart, and the name under which its arrays are kept. It may make tensors on the CPU: where a network
    trains elsewhere it gets a copy, unless its class says ``anywhere = True``.
    """

    @property
    def kind(self) -> str:
        """The measure's name."""
        ...

    @property
    def at(self) -> tuple[int, ...]:
        """Numbers of training steps done."""
        ...

    def take(self, scene: "Scene") -> "Arrays":
        """Return arrays whose first axis is the members; the model is put back afterwards."""
        ...


@dataclass(frozen=True)
class TrainSpec:
    """One training run: an ensemble of members, or one network. Plain SGD unless ``momentum`` is given."""

    network: Network
    data: Data
    members: tuple[Member, ...]
    steps: int
    batch_size: int
    momentum: float = 0.0
    probe: Probe | None = None
    record: Record | None = None
    measures: tuple[Measure, ...] = ()
    gradients: bool = False  # keep each layer's gradient norm at the start
    threads: int = 1
    device: str = "cpu"  # or "cuda"


@dataclass(frozen=True)
class LawSpec:
    """One law's check."""

    law: str
    seed: int = 0
    threads: int = 1


Spec = TrainSpec | LawSpec


def describe(spec: Spec) -> dict[str, Any]:
    """Return the spec as plain data, as ``record.json`` holds it."""
    return {"kind": "law" if isinstance(spec, LawSpec) else "train", **asdict(spec)}


def run_key(spec: Spec, *, digests: tuple[str, ...] = ()) -> str:
    """Return the run's key: equal keys mean equal numbers.

    Args:
        spec: The run.
        digests: Hashes of what the spec only names: the data, a user's source.
    """
    parts = {
        "spec": describe(spec),
        "digests": list(digests),
        "source": source_digest(),
        "torch": torch.__version__,
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


# What only asks for runs, judges them or shows them: the specs that it makes are in the key themselves.
# A contract of import-linter sees to it that nothing else imports these.
NOT_MEASURING = (
    "cli",
    "doctor",
    "files.py",
    "lang",
    "report",
    *(
        f"study/{name}"
        for name in (
            "claim.py",
            "claims",
            "codec.py",
            "cost.py",
            "curves.py",
            "environment.py",
            "executors.py",
            "outcome.py",
            "plan.py",
            "result.py",
            "run.py",
            "store.py",
            "subjects.py",
            "verdict.py",
        )
    ),
)


@lru_cache
def source_digest() -> str:
    """Return the hash of xhat's own source, without what decides no number of a run."""
    root = Path(xhat.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).as_posix()
        if any(place == name or place.startswith(f"{name}/") for name in NOT_MEASURING):
            continue
        digest.update(place.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
