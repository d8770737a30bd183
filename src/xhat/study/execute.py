"""What a worker does: one spec in, its record and arrays out."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from xhat.study import codec
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
    if isinstance(spec, LawSpec):
        started = time.perf_counter()
        result = LAWS[spec.law](spec.seed)
        record = {"result": codec.dumps(result), "seconds": time.perf_counter() - started}
        return record, {"errors": np.array([check.error for check in result.checks])}
    with _ONE_AT_A_TIME:
        return train(spec, tick=tick, folder=folder)


def law_result(run: Run) -> LawResult:
    """Return what a law's run found."""
    return codec.loads(run.record["result"], LawResult)
