"""What a worker does: one spec in, its record and arrays out."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xhat.study import codec
from xhat.study.environment import here
from xhat.study.laws import LAWS
from xhat.study.result import LawResult
from xhat.study.spec import LawSpec, Spec
from xhat.study.store import Arrays, Run
from xhat.study.train import Tick, train

# Torch's random generator and its number of threads belong to the whole process: where an executor
# gives a process two tasks at once (threads, Dask), the second waits.
_ONE_AT_A_TIME = threading.Lock()


def execute(
    spec: Spec, *, tick: Tick | None = None, folder: Path | None = None
) -> tuple[dict[str, Any], Arrays]:
    """Do one run; the same spec gives the same bits in any process with the same torch and processor."""
    with _ONE_AT_A_TIME:
        done = _check(spec) if isinstance(spec, LawSpec) else train(spec, tick=tick, folder=folder)
    record, arrays = done
    device = "cpu" if isinstance(spec, LawSpec) else spec.device
    return {**record, "environment": here(device)}, arrays


def _check(spec: LawSpec) -> tuple[dict[str, Any], Arrays]:
    started = time.perf_counter()
    before = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    try:
        result = LAWS[spec.law](spec.seed)
    finally:
        torch.set_num_threads(before)
    record = {"result": codec.dumps(result), "seconds": time.perf_counter() - started}
    return record, {"errors": np.array([check.error for check in result.checks])}


def law_result(run: Run) -> LawResult:
    """Return what a law's run found."""
    return codec.loads(run.record["result"], LawResult)
