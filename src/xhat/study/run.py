"""The study: claims and laws ask for runs, workers do those that the store does not have, results are kept."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import Protocol

from xhat.errors import XhatError
from xhat.lang import listed, say
from xhat.study.claim import Measurement
from xhat.study.cost import cost
from xhat.study.environment import environment
from xhat.study.execute import law_result
from xhat.study.executors import Done, LocalPool, SharedExecutor, Task, Workers
from xhat.study.plan import Named, Plan, make_plan
from xhat.study.result import ClaimResult, Environment, LawResult, Study, disagreement
from xhat.study.spec import LawSpec, Spec, TrainSpec, describe
from xhat.study.store import Run, Store

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Is told how a study gets on; costs are in expected seconds of one worker."""

    def planned(self, name: str, cost: float) -> None:
        """A claim, or the laws, asked for runs of this cost, found ones included."""
        ...

    def progressed(self, name: str, done: float) -> None:
        """So much of a claim's cost is done."""
        ...

    def finished(self, name: str, result: ClaimResult | LawResult) -> None:
        """A claim or a law was decided."""
        ...


def run(
    preset: str = "quick",
    *,
    claims: Iterable[str] | None = None,
    model: Named | None = None,
    data: Named | None = None,
    out: str | os.PathLike[str] = "xhat-runs",
    executor: Executor | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    device: str = "cpu",
    workers: int | None = None,
    listener: Listener | None = None,
    folder: Path | None = None,
) -> Study:
    """Measure claims and laws; finished runs are kept in ``out`` and not done again.

    Args:
        preset: "smoke" (a minute, no verdicts), "quick" (minutes), "full" (over an hour), "paper" (weeks).
        claims: Names or patterns of claims and laws; all by default.
        model: A user's ``make_model(norm)``, or its "module:callable"; for the claims that take networks.
        data: "fashion-mnist", "digits", "cifar10:FOLDER", or a user's "module:callable".
        out: Folder of the store.
        executor: A ``concurrent.futures`` executor, such as Dask's; local processes by default.
        seeds: In place of the preset's.
        steps: Training steps of every network, in place of the preset's and the claims' own.
        device: Where networks train: "cpu" or "cuda".
        workers: Local processes; one a core by default.
        listener: Is told of progress.
        folder: Where a user's modules are looked for; the working folder by default.

    Returns:
        The study, which the store has too. Runs that failed are in ``problems``, their claims in
        ``unfinished``.

    Raises:
        UsageError: an unknown name.
        DataError: data that are missing or damaged.
        ModelError: a user's network that cannot be made or does not fit its data.
        StoreError: a folder that cannot be written.
    """
    plan = make_plan(
        preset,
        claims=claims,
        model=model,
        data=data,
        seeds=seeds,
        steps=steps,
        folder=folder,
        device=device,
        elsewhere=executor is not None,
    )
    store = Store(out)
    hands: Workers = LocalPool(workers) if executor is None else SharedExecutor(executor)
    try:
        return _Director(plan, store, hands, listener).direct()
    finally:
        hands.stop()


@dataclass
class _Case:
    """A claim or the laws, while being measured."""

    name: str
    measurement: Measurement | None  # None: the laws
    wanted: list[str] = field(default_factory=list)  # keys of the runs asked for last
    waiting: set[str] = field(default_factory=set)
    costs: dict[str, float] = field(default_factory=dict)  # of all runs ever asked for, by key
    rounds: int = 0  # how often it asked
    failed: bool = False


class _Director:
    def __init__(self, plan: Plan, store: Store, hands: Workers, listener: Listener | None) -> None:
        self.plan, self.store, self.hands, self.listener = plan, store, hands, listener
        self.started = time.perf_counter()
        self.runs: dict[str, Run] = {}
        self.specs: dict[str, Spec] = {}
        self.tasks: dict[int, str] = {}
        self.queue: list[tuple[int, float, str]] = []  # a heap: later rounds first, then dearest first
        self.under_way = 0
        self.lost: set[str] = set()  # keys of runs that failed
        self.shares: dict[int, float] = {}
        self.cases: list[_Case] = []
        self.claims: dict[str, ClaimResult] = {}
        self.laws: dict[str, LawResult] = {}
        self.problems: list[str] = []
        self.begun = datetime.now(UTC).isoformat(timespec="seconds")
        self.environment = environment(workers=hands.workers)

    def direct(self) -> Study:
        self._keep()
        try:
            return self._measure()
        except BaseException:
            self._keep()
            raise

    def _measure(self) -> Study:
        if self.plan.laws:
            laws = _Case("laws", None)
            self.cases.append(laws)
            self._ask(laws, [LawSpec(law) for law in self.plan.laws])
        for claim in self.plan.claims:
            case = _Case(claim.text.id, claim.measure(self.plan.context))
            self.cases.append(case)
            self._advance(case, next)
        self._settle()
        self._feed()
        for done in self.hands.results(self._progress):
            self.under_way -= 1
            self._take(done)
            self._settle()
            self._feed()
        return self._keep()

    def _feed(self) -> None:
        """Hand in the most urgent runs: a claim that asks again waits for its last rounds alone."""
        while self.queue and self.under_way < self.hands.window:
            _, _, key = heappop(self.queue)
            wanting = [case for case in self.cases if key in case.waiting and not case.failed]
            if not wanting:  # only a claim that cannot be finished wants it
                del self.specs[key]
                continue
            found = self.store.get(key)  # another study on the same store may have done it meanwhile
            if found is not None:
                self._have(key, found)
                continue
            self.tasks[len(self.tasks)] = key
            self.hands.submit(Task(len(self.tasks) - 1, self.specs[key], self.plan.folder))
            self.under_way += 1

    def _ask(self, case: _Case, specs: Sequence[Spec]) -> None:
        """Note what a case needs, and queue what neither the store nor another case has."""
        device = self.plan.device
        specs = [replace(s, device=device) if isinstance(s, TrainSpec) else s for s in specs]
        case.wanted = [self.plan.key(spec) for spec in specs]
        case.rounds += 1
        for key, spec in zip(case.wanted, specs, strict=True):
            case.costs[key] = cost(spec)
            if key not in self.specs:
                self.specs[key] = spec
                found = self.store.get(key)
                if found is not None:
                    self.runs[key] = found
                else:
                    heappush(self.queue, (-case.rounds, -case.costs[key], key))
        case.waiting = set(case.wanted) - set(self.runs)
        case.failed = case.failed or bool(case.waiting & self.lost)
        if self.listener:
            self.listener.planned(case.name, sum(case.costs.values()))
        self._progress({})

    def _settle(self) -> None:
        """Send every case what it waited for, as long as some case has all of it."""
        while ready := [c for c in self.cases if c.wanted and not c.waiting and not c.failed]:
            for case in ready:
                runs = [self.runs[key] for key in case.wanted]
                case.wanted = []
                if case.measurement is None:
                    self._decide_laws(runs)
                else:
                    self._advance(case, partial(_send, runs))

    def _advance(self, case: _Case, step: Callable[[Measurement], Sequence[Spec]]) -> None:
        assert case.measurement is not None
        try:
            self._ask(case, step(case.measurement))
        except StopIteration as stop:
            seconds = sum(self.runs[key].record["seconds"] for key in case.costs)
            result = _without_verdicts(stop.value) if self.plan.context.preset == "smoke" else stop.value
            found = tuple(filter(None, (disagreement(result.effects), *result.found)))
            self.claims[case.name] = replace(result, seconds=seconds, found=found)
            self._keep()
            if self.listener:
                self.listener.finished(case.name, self.claims[case.name])
        except XhatError:
            raise
        except Exception as error:
            # A claim that cannot be judged must not take the others with it.
            case.failed = True
            what = f"{type(error).__name__}: {error}"
            self.problems.append(say("{claim} could not be judged: {what}", claim=case.name, what=what))
            logger.error("%s could not be judged", case.name, exc_info=error)

    def _decide_laws(self, runs: Sequence[Run]) -> None:
        for run_ in runs:
            law = law_result(run_)
            self.laws[law.id] = law
            if self.listener:
                self.listener.finished(law.id, law)
        self._keep()

    def _take(self, done: Done) -> None:
        key = self.tasks[done.task.index]
        if done.error is not None:
            if isinstance(done.error, XhatError):
                raise done.error
            self._fail(key, done.error)
            return
        assert done.record is not None
        assert done.arrays is not None
        record = {"spec": describe(self.specs[key]), **done.record}
        self.store.put(key, record, done.arrays)
        self._have(key, Run(key, record, done.arrays))

    def _have(self, key: str, run_: Run) -> None:
        self.runs[key] = run_
        for case in self.cases:
            case.waiting.discard(key)
        self._progress({})

    def _fail(self, key: str, error: BaseException) -> None:
        """Note a run that failed; the claims that need it stay unfinished, the others go on."""
        self.lost.add(key)
        hit = [case for case in self.cases if key in case.waiting]
        for case in hit:
            case.failed = True
        names = listed((case.name for case in hit), ", ")
        what = f"{type(error).__name__}: {error}"
        # Many runs of one network fail alike: the traceback is logged once.
        if not any(what in problem for problem in self.problems):
            logger.error("run %s failed", key, exc_info=error)
            self.problems.append(
                say("run {key} of {claims} failed: {what}", key=key, claims=names, what=what)
            )

    def _progress(self, shares: dict[int, float]) -> None:
        if self.listener is None:
            return
        self.shares |= shares
        by_key = {self.tasks[index]: share for index, share in self.shares.items()}
        for case in self.cases:
            done = sum(
                price * (1.0 if key in self.runs else by_key.get(key, 0.0))
                for key, price in case.costs.items()
            )
            self.listener.progressed(case.name, done)

    def _where(self) -> Environment:
        """Return this machine's description, with what the runs say of theirs: a store may be shared."""
        made = [run_.record["environment"] for run_ in self.runs.values() if "environment" in run_.record]
        processors, commits = (sorted({place[name] for place in made}) for name in ("processor", "commit"))
        return replace(
            self.environment,
            commit="; ".join(filter(None, commits)) or self.environment.commit,
            processor="; ".join(processors) or self.environment.processor,
            memory_reused=bool(made) and all(place["memory_reused"] for place in made),
        )

    def _when(self) -> tuple[str, str]:
        """Return when the first run began and the last one ended, ISO 8601."""
        spans = [
            (ended - timedelta(seconds=run_.record["seconds"]), ended)
            for run_ in self.runs.values()
            if (at := run_.record.get("environment", {}).get("finished"))
            and (ended := datetime.fromisoformat(at))
        ]
        if not spans:
            return "", ""
        begun, ended = min(begin for begin, _ in spans), max(end for _, end in spans)
        return begun.isoformat(timespec="seconds"), ended.isoformat(timespec="seconds")

    def _keep(self) -> Study:
        """Write what is known so far, so that a page can be made of it whatever happens next."""
        where, (measured_from, measured_to) = self._where(), self._when()
        study = Study(
            preset=self.plan.context.preset,
            asked=self.plan.asked,
            subject=self.plan.subject,
            started=self.begun,
            seconds=time.perf_counter() - self.started,
            environment=where,
            claims=tuple(self.claims[c.text.id] for c in self.plan.claims if c.text.id in self.claims),
            laws=tuple(self.laws[law] for law in self.plan.laws if law in self.laws),
            unfinished=tuple(
                name
                for name in (*(c.text.id for c in self.plan.claims), *self.plan.laws)
                if name not in self.claims and name not in self.laws
            ),
            problems=tuple(self.problems),
            measured_from=measured_from,
            measured_to=measured_to,
            work=sum(run_.record["seconds"] for run_ in self.runs.values()),
            judged_with=self.environment.commit if self.environment.commit != where.commit else "",
        )
        self.store.put_study(study)
        return study


def _send(runs: Sequence[Run], measurement: Measurement) -> Sequence[Spec]:
    return measurement.send(runs)


def _without_verdicts(result: ClaimResult) -> ClaimResult:
    """A smoke run shows that everything works; it is too small to decide anything."""
    effects = tuple(
        replace(effect, verdict="inconclusive", note="too small for a verdict") for effect in result.effects
    )
    found = ("A smoke run shows that everything works. It is too small to decide anything.",)
    return replace(result, verdict="inconclusive", effects=effects, found=found)
