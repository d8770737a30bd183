"""One training run, from a spec to its numbers: plain SGD on one network or on an ensemble at once."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xhat.data import TensorData, load
from xhat.errors import DataError, ModelError
from xhat.landscape._walk import Walk, walk
from xhat.landscape.recording import QUANTILES, Recording, record
from xhat.models import Ensemble
from xhat.study.devices import on_device
from xhat.study.networks import build, seed_everything
from xhat.study.scene import Scene
from xhat.study.spec import Data, TrainSpec
from xhat.study.store import Arrays
from xhat.study.tasks import Classification, EnsembleClassification, LinearRegression, Task
from xhat.unchanged import State, unchanged

Tick = Callable[[float], None]


def train(
    spec: TrainSpec, *, tick: Tick | None = None, folder: Path | None = None
) -> tuple[dict[str, Any], Arrays]:
    """Train, and return what the run says of itself and its arrays.

    M members, T steps, P probes of E step sizes, R records. A run stops early once no member's loss is
    finite; the rest of its losses are NaN.

    Args:
        spec: The run.
        tick: Called with the share done, between 0 and 1.
        folder: Where a user's module is looked for.

    Returns:
        The record ("positions" recorded, "layers" with a gradient norm; "seconds" in all, "training_seconds"
        without probes, records, measures and evaluation) and the arrays: loss (M, T),
        final_loss (M,): the mean over the last tenth of the steps; chance (M,); trains (M,): finite at
        every step and finally below half of chance; test_accuracy (M,); probe_step (P,), probe_ratio
        (E,), probe_loss and probe_distance (M, P, E), probe_start, probe_gradient and probe_weight (M, P);
        record_step (R,) and the fields of each recorded position; layer_gradient (M, L); of each measure
        that was taken A times KIND_step (A,) and KIND_NAME (M, A, ...).
    """
    with _callers_state_kept(), on_device(spec.device) as device:
        torch.set_num_threads(spec.threads)
        return _Training(spec, folder, device).run(tick or (lambda share: None))


@contextmanager
def _callers_state_kept() -> Iterator[None]:
    """Put back the number of threads and the states of numpy's and Python's random generators."""
    threads = torch.get_num_threads()
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


class _Training:
    def __init__(self, spec: TrainSpec, folder: Path | None, device: torch.device) -> None:
        self.spec, self.device = spec, device
        data = None if spec.network.name == "deep-linear" else load_data(spec.data, folder)
        # Made on the CPU and moved, so that initial weights and batches are the same everywhere.
        self.model = build(spec.network, spec.members, data, folder).to(device)
        self.task = _task(spec, data)
        self.parameters: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.members = len(spec.members)
        self.lr = torch.tensor([member.lr for member in spec.members], device=device)
        self.decay = torch.tensor([member.decay for member in spec.members], device=device)
        self.velocity = [torch.zeros_like(p) for p in self.parameters] if spec.momentum else []
        if not self.parameters:
            raise ModelError(f"{spec.network.name} (norm={spec.network.norm!r}) has nothing to train")
        seed_everything(spec.members[0].seed)  # noise and dropout: not where building left off

    def run(self, tick: Tick) -> tuple[dict[str, Any], Arrays]:
        spec = self.spec
        started, training = time.perf_counter(), 0.0
        loss = torch.full((self.members, spec.steps), torch.nan)
        walks: list[Walk] = []
        taken: dict[str, list[tuple[int, Arrays]]] = {}
        found: dict[str, Any] = {}
        arrays: Arrays = {}
        with self._recording() as recording:
            for step in range(spec.steps):
                self.model.train()
                begun = time.perf_counter()
                x, y = self._batch(step)
                training += time.perf_counter() - begun
                if step == 0:
                    self._try(x, y)
                    if spec.gradients:
                        found["layers"], arrays["layer_gradient"] = self._layer_gradients(x, y)
                if spec.probe and step in spec.probe.at:
                    walks.append(self._walk(x, y, spec.probe.ratios))
                if recording and spec.record and step in spec.record.at:
                    recording.snapshot(self.task.fixed(spec.record.batch).to(self.device), step)
                self._measure(step, (x, y), taken)
                begun = time.perf_counter()
                loss[:, step] = self._step(x, y).cpu()
                training += time.perf_counter() - begun
                if not bool(loss[:, step].isfinite().any()):
                    break
                tick((step + 1) / spec.steps)
            else:
                self.model.train()
                if any(spec.steps in measure.at for measure in spec.measures):
                    self._measure(spec.steps, self._batch(spec.steps), taken)
        arrays |= self._outcome(loss)
        arrays |= _probe_arrays(spec, walks)
        arrays |= _measure_arrays(taken)
        if recording:
            found["positions"] = _record_arrays(recording, arrays)
        found |= {"seconds": time.perf_counter() - started, "training_seconds": training}
        # The order in memory decides in which order numpy sums: the same before and after the store.
        return found, {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        x, y = self.task.batch(step)
        return x.to(self.device), y.to(self.device)

    def _recording(self) -> AbstractContextManager[Recording | None]:
        if self.spec.record is None:
            return nullcontext()
        layers = self.spec.record.layers
        if layers is None:  # what enters a layer with weights; a plain twin has no others to compare with
            kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
            layers = tuple(name for name, m in self.model.named_modules() if isinstance(m, kinds)) or None
        return record(self.model, every=None, layers=layers)

    def _measure(
        self, step: int, batch: tuple[Tensor, Tensor], taken: dict[str, list[tuple[int, Arrays]]]
    ) -> None:
        for measure in self.spec.measures:
            if step in measure.at:
                scene = Scene(self.model, self.task, step, batch, self.lr)
                fits = self.device.type == "cpu" or getattr(measure, "anywhere", False)
                with unchanged(self.model):
                    found = measure.take(scene if fits else scene.on_cpu())
                taken.setdefault(measure.kind, []).append((step, found))

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        return self.task.losses(self.model(x), y)

    def _try(self, x: Tensor, y: Tensor) -> None:
        """Make sure that the network takes these data, before any time is spent."""
        try:
            with unchanged(self.model), torch.no_grad():
                self._losses(x, y)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"{self.spec.network.name} (norm={self.spec.network.norm!r}) does not take the data "
                f"{self.spec.data.name}: input of shape {tuple(x.shape)}, target of shape {tuple(y.shape)}. "
                f"{type(error).__name__}: {error}"
            ) from error

    def _gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        loss = self._losses(x, y)
        found = torch.autograd.grad(loss.sum(), self.parameters, allow_unused=True)
        slopes = [
            torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)
        ]
        return loss.detach(), slopes

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        loss, slopes = self._gradient(x, y)
        with torch.no_grad():
            slopes = self._decayed(slopes)
            if self.velocity:
                torch._foreach_mul_(self.velocity, self.spec.momentum)
                torch._foreach_add_(self.velocity, slopes)
                slopes = self.velocity
            if self.members == 1:
                torch._foreach_add_(self.parameters, slopes, alpha=-float(self.lr))
            else:
                for parameter, slope in zip(self.parameters, slopes, strict=True):
                    rate = self.lr.view(-1, *[1] * (slope.dim() - 1))
                    parameter.addcmul_(rate, slope, value=-1)
        return loss

    def _decayed(self, slopes: list[Tensor]) -> list[Tensor]:
        if not bool(self.decay.any()):
            return slopes
        lead = self._lead
        return [
            g + self.decay.view(-1, *[1] * (p.dim() - 1)) * p if p.dim() - lead >= 2 else g
            for p, g in zip(self.parameters, slopes, strict=True)
        ]

    @property
    def _lead(self) -> int:
        """How many axes of a parameter count members."""
        return 1 if isinstance(self.model, Ensemble) else 0

    def _walk(self, x: Tensor, y: Tensor, ratios: tuple[float, ...]) -> Walk:
        with unchanged(self.model):
            state = State(self.model, without=self.parameters)

            def losses() -> Tensor:
                state.restore()  # the same noise and the same buffers at every step size
                return self._losses(x, y)

            steps = self.lr[:, None] * torch.tensor(ratios)
            return walk(self.parameters, losses, steps, members=self.members)

    def _layer_gradients(self, x: Tensor, y: Tensor) -> tuple[list[str], npt.NDArray[Any]]:
        with unchanged(self.model):
            _, slopes = self._gradient(x, y)
        names = {id(p): name for name, p in self.model.named_parameters()}
        kept = [
            (names[id(p)], g.reshape(self.members, -1).double().norm(dim=1))
            for p, g in zip(self.parameters, slopes, strict=True)
            if p.dim() - self._lead >= 2
        ]
        return [name for name, _ in kept], torch.stack([norm for _, norm in kept], 1).cpu().numpy()

    def _outcome(self, loss: Tensor) -> Arrays:
        tail = max(1, self.spec.steps // 10)
        final = loss[:, -tail:].mean(1)
        trains = loss.isfinite().all(1) & (final < self.task.chance / 2)
        return {
            "loss": loss.numpy(),
            "final_loss": final.numpy(),
            "chance": self.task.chance.numpy(),
            "trains": trains.numpy(),
            **self.task.evaluate(self.model),
        }


def load_data(data: Data, folder: Path | None) -> TensorData:
    """Return the data set, cut to at most the samples that the spec says, and pooled."""
    whole = load(data.name, folder=folder)
    if data.train is not None or data.test is not None:
        whole = whole.subset(
            train=_at_most(data.train, whole.train_y), test=_at_most(data.test, whole.test_y)
        )
    # Images that would come out smaller than 7×7, such as digits, stay as they are.
    pools = data.pool > 1 and min(whole.train_x.shape[2:], default=0) >= 7 * data.pool
    whole = whole.pooled(data.pool) if pools else whole
    return whole.between_0_and_1() if data.raw else whole


def _at_most(count: int | None, targets: Tensor) -> int | None:
    return None if count is None else min(count, len(targets))


def _task(spec: TrainSpec, data: TensorData | None) -> Task:
    seeds = tuple(member.seed for member in spec.members)
    if data is None:
        return LinearRegression(seeds)
    if spec.batch_size > len(data.train_y):
        raise DataError(
            f"{data.name} has {len(data.train_y)} training samples; a batch of {spec.batch_size} does not fit"
        )
    if spec.network.is_ensemble:
        return EnsembleClassification(data, seeds, spec.batch_size)
    return Classification(data, seeds[0], spec.batch_size)


def _probe_arrays(spec: TrainSpec, walks: list[Walk]) -> Arrays:
    if spec.probe is None or not walks:
        return {}
    return {
        "probe_step": np.array(spec.probe.at[: len(walks)]),
        "probe_ratio": np.array(spec.probe.ratios),
        "probe_loss": np.stack([w.loss for w in walks], 1),
        "probe_distance": np.stack([w.distance for w in walks], 1),
        "probe_start": np.stack([w.start_loss for w in walks], 1),
        "probe_gradient": np.stack([w.gradient_norm for w in walks], 1),
        "probe_weight": np.stack([w.weight_norm for w in walks], 1),
    }


def _measure_arrays(taken: dict[str, list[tuple[int, Arrays]]]) -> Arrays:
    arrays: Arrays = {}
    for kind, times in taken.items():
        arrays[f"{kind}_step"] = np.array([step for step, _ in times])
        for name in times[0][1]:
            arrays[f"{kind}_{name}"] = np.stack([found[name] for _, found in times], axis=1)
    return arrays


def _record_arrays(recording: Recording, arrays: Arrays) -> list[list[str]]:
    arrays["record_step"] = np.array(recording.steps)
    arrays["record_quantile"] = np.array(QUANTILES)
    positions = recording.positions()
    for index, position in enumerate(positions):
        for field in ("mean", "std", "dead", "pooled", "units"):
            arrays[f"record_{index}_{field}"] = getattr(position, field)
    return [[position.layer, position.side] for position in positions]
