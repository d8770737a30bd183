"""Run a model on its batches, with several kinds of statistics, and keep what rules on behaviour compare.

The passes, all without gradients and with dropout off:

1. evaluation, with the running statistics;
2. each batch by its own statistics, as in training; here each norm's moments are gathered;
3. evaluation with the pooled moments of all batches, as ``recalibrate_`` would set them.

Some batches run again: in halves, alone in evaluation mode and with samples of all batches mixed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xhat.batches import Forward, each_batch, target_of
from xhat.doctor._outputs import Gap, Outputs, Score, gap, score, spread
from xhat.doctor._passes import Passes
from xhat.doctor._seen import Collected, Seen
from xhat.doctor._split import mixed, picked, samples_in, take
from xhat.errors import XhatError
from xhat.moments import Moments
from xhat.norms import batch_norms
from xhat.surgery._recalibrate.bar import bar
from xhat.unchanged import unchanged

# Batches that are looked at; those that run again to tell how far chance alone moves outputs.
LIMIT = 16
AGAIN = 4
# Gaps of this share of the spread and above are looked into: no rule speaks of smaller ones.
WIDE = 0.25
NOTHING = 1e-4
# Larger whole numbers are not taken for classes.
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Alone:
    """Evaluation mode as the user's ``eval`` leaves it: does a sample's output depend on the others?"""

    parts: Gap | None  # the first batch in two halves, against the whole
    repeated: Gap | None  # the whole once more, where parts differ: above 0 where evaluation is random
    training: tuple[str, ...]  # norms that are still in training mode
    untracked: tuple[str, ...]  # norms that keep no running statistics


@dataclass(frozen=True)
class Chance:
    """How far outputs move by chance, each as a gap to those with pooled statistics; looked at where it matters."""

    pooled: float  # mean square that sampling noise of the pooled statistics makes; 0 where not looked at
    given: tuple[Gap, ...]  # batches as given, each by its own statistics
    mixed: tuple[Gap, ...]  # as large batches of samples drawn from all: the same, and nothing but noise
    halves: tuple[Gap, ...]  # the mixed batches in halves: twice the noise


@dataclass(frozen=True)
class Observed:
    """What a model's batches showed."""

    samples: tuple[int, ...]  # of each batch, 0 where unknown
    values: Mapping[str, tuple[int, ...]]  # by norm, values a channel in each batch; 0 where it did not run
    frozen: frozenset[str]  # norms that keep their running statistics in training
    seen: Mapping[str, Seen]  # by norm that uses batch statistics in training
    classes: tuple[tuple[int, ...], ...] | None  # samples of each class in each batch
    running_to_pooled: Gap | None  # outputs of pass 1 against pass 3
    pooled_to_batch: Gap | None  # pass 3 against pass 2
    running_to_batch: Gap | None  # pass 1 against pass 2
    mode: Gap | None  # the first batch: pass 1 against all but norms and dropout in training mode
    mode_repeated: Gap | None  # the latter twice: above 0 where training is random
    scores: Mapping[str, Score]  # "running", "pooled", "batch"
    alone: Alone
    chance: Chance


@torch.no_grad()
def observe(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    limit: int | None = LIMIT,
    progress: bool = False,
) -> Observed:
    """Return what the batches show of a model, which comes out bit for bit as it went in.

    Args:
        model: Any network, in the mode that it is diagnosed in.
        batches: As ``diagnose`` takes them; the first ``limit`` are held in memory.
        forward: ``forward(model, batch)`` where a batch is not simply the model's input.
        limit: Batches to look at; None takes all.
        progress: Draw a progress bar on stderr, if that is a terminal.

    Raises:
        ModelError: the model raises in evaluation mode.
        UsageError, DataError: batches are of the wrong kind, or there are none.
    """
    given = list(each_batch(batches, limit=limit))
    norms = batch_norms(model)
    with unchanged(model):
        frozen = _frozen_by_mode(model, norms)
        alone = _alone(model, given[0], forward, norms)
        model.train()
        frozen |= {name for name, norm in norms.items() if not norm.training}
        with bar(progress, 3, given, None) as advance:
            passes = Passes(model, norms, forward, frozenset(frozen), advance)
            return _Observing(passes, given, alone).done()


def _frozen_by_mode(model: nn.Module, norms: Mapping[str, nn.Module]) -> set[str]:
    """Return the norms that are in evaluation mode amid layers in training mode: so users freeze them.

    A new wrapper, itself in training mode, around a model in evaluation mode freezes nothing.
    """
    own = set(norms.values())
    others = (module for module in model.modules() if module not in own and module is not model)
    if not model.training or not any(module.training for module in others):
        return set()
    return {name for name, norm in norms.items() if not norm.training}


def _alone(model: nn.Module, batch: Any, forward: Forward | None, norms: Mapping[str, nn.Module]) -> Alone:
    """Run the first batch in the user's own evaluation mode, whole and in halves."""
    if model.training:
        model.eval()
    passes = Passes(model, {}, forward, frozenset())
    whole = passes.outputs([batch])
    spreads = spread(whole)
    parts = _in_halves(passes.outputs, batch)
    found = None if parts is None else gap([parts], whole, spreads)
    differs = found is not None and found.relative >= NOTHING
    return Alone(
        found,
        gap(passes.outputs([batch]), whole, spreads) if differs else None,
        tuple(name for name, norm in norms.items() if norm.training),
        tuple(name for name, norm in norms.items() if getattr(norm, "running_mean", None) is None),
    )


def _in_halves(run: Any, batch: Any) -> list[Tensor] | None:
    """Return the outputs on a batch that runs in two halves; None where it cannot."""
    samples = samples_in(batch) or 0
    if samples < 2:
        return None
    halves = [take(batch, index) for index in torch.arange(samples).chunk(2)]
    if any(half is None for half in halves):
        return None
    try:
        parts = run(halves)
    except XhatError:  # a batch of objects whose length is not that of its tensors
        return None
    if len({len(part) for part in parts}) > 1 or any(
        a.shape[1:] != b.shape[1:] for a, b in zip(*parts, strict=True)
    ):
        return None
    return [torch.cat(pair) for pair in zip(*parts, strict=True)]


class _Observing:
    """The passes, in their order."""

    def __init__(self, passes: Passes, batches: Sequence[Any], alone: Alone) -> None:
        self.passes, self.batches, self.alone = passes, batches, alone
        self.samples = tuple(samples_in(batch) or 0 for batch in batches)

    def done(self) -> Observed:
        self.passes.number = 1
        running, values = self.passes.counted(self.batches)
        # A batch with one value a channel is what training raises at.
        fit = [
            place
            for place in range(len(self.batches))
            if not any(
                counts[place] == 1 for name, counts in values.items() if name not in self.passes.frozen
            )
        ]
        batches = [self.batches[place] for place in fit]
        running = [running[place] for place in fit]
        collected = {name: Collected() for name in self.passes.norms if name not in self.passes.frozen}
        self.passes.number = 2
        batch = self.passes.batch_statistics(batches, collected)
        seen = {name: found for name, part in collected.items() if (found := part.seen()) is not None}
        self.passes.number = 3
        pooled = self.passes.fixed_statistics(batches, _moments(seen))
        self.passes.number = 0
        self.spreads = spread(pooled) if pooled else []
        mode = self._mode(batches[:1], running[:1])
        targets = [target_of(each) for each in batches]
        scores = {"running": running, "pooled": pooled, "batch": batch}
        return Observed(
            self.samples,
            {name: tuple(counts) for name, counts in values.items()},
            self.passes.frozen,
            seen,
            _classes([target_of(each) for each in self.batches]),
            self._gap(running, pooled),
            self._gap(pooled, batch),
            self._gap(running, batch),
            *mode,
            _scores(scores, targets),
            self.alone,
            self._chance(batches, running, pooled, batch, seen),
        )

    def _gap(self, one: Outputs, other: Outputs) -> Gap | None:
        return gap(one, other, self.spreads) if one else None

    def _mode(self, batches: Sequence[Any], running: Outputs) -> tuple[Gap | None, Gap | None]:
        """Run the first batch twice with all but norms and dropout in training mode, statistics as they were."""
        try:
            first = self.passes.training_code(batches)
            found = self._gap(first, running)
            if found is None or found.relative < NOTHING:
                return found, None
            return found, self._gap(first, self.passes.training_code(batches))
        except XhatError:  # a model that wants its targets in training, say
            return None, None

    def _chance(
        self,
        batches: Sequence[Any],
        running: Outputs,
        pooled: Outputs,
        batch: Outputs,
        seen: Mapping[str, Seen],
    ) -> Chance:
        """Run some batches again, where a gap is wide enough that a rule may speak of it."""
        run = self.passes
        noise = 0.0
        if len(batches) < 2:
            return Chance(noise, (), (), ())
        if _is_wide(self._gap(running, pooled)):
            # Statistics of two halves differ by twice the noise of each, which is twice that of the whole.
            sides = [
                _moments({name: part.part(slice(side, None, 2)) for name, part in seen.items()})
                for side in (0, 1)
            ]
            between = self._gap(*(run.fixed_statistics(batches[:1], side) for side in sides))
            noise = between.square / 4 if between else 0.0
        made = mixed(batches, AGAIN) if _is_wide(self._gap(pooled, batch)) else None
        if made is None:
            return Chance(noise, (), (), ())
        try:
            by_batch = run.batch_statistics(made[0])
            # In evaluation mode a sample's output is the same in any batch.
            still = [picked(pooled, picks) for picks in made[1]]
        except (XhatError, RuntimeError):  # outputs of several sizes, say
            return Chance(noise, (), (), ())
        halves = [half for each in made[0] if (half := _in_halves(run.batch_statistics, each)) is not None]
        return Chance(
            noise,
            self._each(batch, pooled),
            self._each(by_batch, still),
            self._each(halves, still) if len(halves) == len(still) else (),
        )

    def _each(self, one: Outputs, other: Outputs) -> tuple[Gap, ...]:
        found = (gap([a], [b], self.spreads) for a, b in zip(one, other, strict=True))
        return tuple(each for each in found if each is not None)


def _is_wide(found: Gap | None) -> bool:
    return found is not None and not found.relative < WIDE


def _scores(passes: Mapping[str, Outputs], targets: Sequence[Tensor | None]) -> dict[str, Score]:
    scores = {name: score(part, targets) for name, part in passes.items()}
    return {name: found for name, found in scores.items() if found is not None}


def _moments(seen: Mapping[str, Seen]) -> dict[str, Moments]:
    return {name: part.moments() for name, part in seen.items()}


def _classes(targets: Sequence[Tensor | None]) -> tuple[tuple[int, ...], ...] | None:
    """Return how many samples of each class each batch has; None where targets are no classes."""
    known = [t.long().cpu() for t in targets if t is not None and t.dim() == 1 and _is_whole(t)]
    if len(known) < len(targets) or any(not len(t) or t.min() < 0 or t.max() > MOST_CLASSES for t in known):
        return None
    width = 1 + max(int(t.max()) for t in known)
    return tuple(tuple(t.bincount(minlength=width).tolist()) for t in known)


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype is not torch.bool
