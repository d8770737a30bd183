"""What xhat.reuse_memory() gains: BN→ReLU of torch with and without it, in processes that alternate.

    python benchmarks/reuse_memory.py --rounds 5 --json reuse_memory.json

Each round runs one process without and one with it; a ratio is taken within a round, so that a slow
minute of the machine touches both sides.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE = (128, 64, 32, 32)


def measure(repeats: int) -> dict[str, float]:
    """Median milliseconds of each operation in this process."""
    import torch

    import xhat.memory

    if os.environ["XHAT_REUSE_MEMORY"] == "1":
        assert xhat.memory.reuse_memory(), "memory cannot be reused here"
    torch.manual_seed(0)
    x = torch.randn(SHAPE, requires_grad=True)
    g = torch.randn(SHAPE)
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(SHAPE[1]), torch.nn.ReLU())

    times: dict[str, list[float]] = {"forward": [], "backward": [], "copy": []}
    for _ in range(repeats + 3):
        x.grad = None
        y = timed(times["forward"], net, x)
        timed(times["backward"], y.backward, g)
        timed(times["copy"], x.detach().clone)
        del y
    return {name: statistics.median(values[3:]) for name, values in times.items()}  # the first warm up


def timed(into: list[float], function: Callable[..., Any], *arguments: object) -> Any:
    """Call, and append the milliseconds it took."""
    start = time.perf_counter()
    result = function(*arguments)
    into.append((time.perf_counter() - start) * 1e3)
    return result


def child(reuse: bool, repeats: int) -> dict[str, float]:
    """Measure in a process of its own."""
    result = subprocess.run(
        [sys.executable, __file__, "--child", "--repeats", str(repeats)],
        env={**os.environ, "XHAT_REUSE_MEMORY": str(int(reuse))},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(result.stdout)


def environment() -> dict[str, object]:
    """Where the numbers were made."""
    import torch

    import xhat

    return {
        "xhat": xhat.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):6.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    """Alternate, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20, help="per process")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.repeats)))
        return
    without, reused = [], []
    for i in range(arguments.rounds):
        for reuse in (False, True) if i % 2 == 0 else (True, False):
            (reused if reuse else without).append(child(reuse, arguments.repeats))

    print(f"BN→ReLU, float32 {SHAPE}: median over {arguments.rounds} rounds (smallest–largest)")
    print(f"{'':10}{'default, ms':>22}{'reused, ms':>22}{'ratio':>22}")
    ratios = {}
    for name in without[0]:
        a, b = [run[name] for run in without], [run[name] for run in reused]
        ratios[name] = [x / y for x, y in zip(a, b, strict=True)]
        print(f"{name:10}{spread(a):>22}{spread(b):>22}{spread(ratios[name]):>22}")
    if arguments.json:
        result = {"shape": SHAPE, "milliseconds": {"default": without, "reused": reused}, "ratios": ratios}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"environment": environment(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
