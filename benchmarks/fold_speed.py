"""The forward pass of trained networks before and after folding: xhat.fold, and torch.fx's fuse beside it.

    python benchmarks/fold_speed.py --json benchmarks/results/fold_speed.json

MobileNetV2 on 224×224 and a VGG on 32×32 (tests/pretrained), in eval mode without gradients. Sides take turns in
every round; a ratio is that of one round.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from _environment import environment
from tests.pretrained import models

import xhat

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "MobileNetV2": (models.mobilenet_v2, 224),
    "SVHN VGG": (models.svhn_vgg, 32),
}
CASES = tuple(product(NETWORKS, (1, 32), (2, 1)))  # network, batch, threads
Sides = dict[str, nn.Module]


def sides(model: nn.Module, size: int) -> Sides:
    """Return the network as it is, and folded by each tool; all are copies, so that memory lies alike."""
    from torch.fx.experimental.optimization import fuse

    folded = xhat.fold(model, torch.randn(2, 3, size, size)).model
    made = {"before": copy.deepcopy(model), "fx": fuse(model), "xhat": folded}
    return {name: side.eval() for name, side in made.items()}


def largest_difference(networks: Sides, x: Tensor) -> dict[str, float]:
    """Return how far outputs are from the unfolded network's, relative to its largest."""
    with torch.no_grad():
        before = networks["before"](x)
        return {
            name: float((network(x) - before).abs().max() / before.abs().max())
            for name, network in networks.items()
            if name != "before"
        }


def milliseconds(network: nn.Module, x: Tensor, passes: int) -> float:
    """Return the time of a forward pass, the mean of some."""
    with torch.inference_mode():
        start = time.perf_counter()
        for _ in range(passes):
            network(x)
        return 1e3 * (time.perf_counter() - start) / passes


def measure(networks: Sides, x: Tensor, *, rounds: int, seconds: float) -> dict[str, object]:
    """Return what every side took, by round."""
    once = min(milliseconds(networks["before"], x, 2) for _ in range(2))
    passes = max(1, round(1e3 * seconds / once))
    took: dict[str, list[float]] = {name: [] for name in networks}
    order = list(networks)
    for nth in range(rounds + 1):
        for name in order:
            spent = milliseconds(networks[name], x, passes)
            if nth:  # the first round warms up
                took[name].append(spent)
        order.append(order.pop(0))
    ratios = {
        name: [a / b for a, b in zip(took["before"], took[name], strict=True)]
        for name in networks
        if name != "before"
    }
    return {"passes": passes, "milliseconds": took, "ratios": ratios}


def main() -> None:
    """Measure every case, print a line each, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of forward passes a side and round, about"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cases = []
    made = {name: sides(make(), size) for name, (make, size) in NETWORKS.items()}
    for name, batch, threads in CASES:
        torch.set_num_threads(threads)
        size = NETWORKS[name][1]
        torch.manual_seed(0)
        x = torch.randn(batch, 3, size, size)
        found = measure(made[name], x, rounds=arguments.rounds, seconds=arguments.seconds)
        differs = largest_difference(made[name], x)
        cases.append({"network": name, "size": size, "batch": batch, "threads": threads})
        cases[-1] |= {**found, "largest_relative_difference": differs}
        medians = {side: statistics.median(spent) for side, spent in found["milliseconds"].items()}
        print(
            f"{name}, batch {batch:2}, {threads} threads: "
            + ", ".join(f"{side} {spent:.2f} ms" for side, spent in medians.items())
            + f"; xhat {statistics.median(found['ratios']['xhat']):.2f} times as fast as before",
            flush=True,
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"environment": environment(), "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
