"""The doctor's time on a trained network against one plain pass over the same batches.

    python benchmarks/doctor_speed.py --json benchmarks/results/doctor_speed.json

MobileNetV2 (tests/pretrained) on crops of two photographs of 224×224, with its own statistics, which those crops do not
have, and recalibrated on them: where outputs differ widely the doctor looks again. The plain pass is in eval mode
without gradients. Sides take turns in every round; a ratio is that of one round.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from _environment import environment
from tests.pretrained import models, photos

import xhat


def plain(model: nn.Module, batches: list[Tensor]) -> None:
    """Run the batches once."""
    model.eval()
    with torch.no_grad():
        for x in batches:
            model(x)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print a line, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--size", type=int, default=16, help="images a batch")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = models.mobilenet_v2()
    crops = photos(arguments.batches * arguments.size)
    batches = list(crops[torch.randperm(len(crops))].split(arguments.size))
    healthy = copy.deepcopy(model)
    xhat.recalibrate_(healthy, batches)
    sides: dict[str, Callable[[], object]] = {
        "plain pass": lambda: plain(model, batches),
        "doctor, statistics of these batches": lambda: xhat.diagnose(healthy, batches),
        "doctor, statistics of other data": lambda: xhat.diagnose(model, batches),
        "doctor without batches": lambda: xhat.diagnose(model),
    }
    took: dict[str, list[float]] = {name: [] for name in sides}
    for nth in range(arguments.rounds + 1):
        for name, work in sides.items():
            spent = seconds(work)
            if nth:  # the first round warms up
                took[name].append(spent)
    ratios = {
        name: [a / b for a, b in zip(spent, took["plain pass"], strict=True)]
        for name, spent in took.items()
        if name != "plain pass"
    }
    print(", ".join(f"{name} {statistics.median(spent):.2f} s" for name, spent in took.items()))
    print(", ".join(f"{name}: {statistics.median(ratio):.2f} plain passes" for name, ratio in ratios.items()))
    if arguments.json:
        result = {
            "environment": environment(),
            "batches": arguments.batches,
            "size": arguments.size,
            "seconds": took,
            "ratios": ratios,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
