"""64 small networks trained as one batched computation, against a loop over them, one after the other.

    python benchmarks/ensembles.py --json benchmarks/results/ensembles.json

MLPs of 3 hidden layers of 100 units (Ioffe and Szegedy 2015, arXiv 1502.03167, sec. 4.1), 10 classes, plain SGD,
every network on batches of its own. Both sides do the same work: the losses of the first 10 steps are compared.
The loop runs plain torch modules on 1 and on 2 threads; the faster one counts. Sides take turns in every round.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _environment import environment

import xhat
from xhat.data import load
from xhat.models import MLP, Ensemble, initialise_

MEMBERS, DEPTH, WIDTH, CLASSES, LR = 64, 3, 100, 10, 0.05
INPUTS = {64: "digits", 784: "fashion-mnist"}  # features of an input, and the data that have so many
CASES = tuple(product(INPUTS, ("none", "batch"), ("sigmoid", "relu")))
Batches = list[tuple[Tensor, Tensor]]  # by step: inputs (members, N, features), classes (members, N)


def members(inputs: int, norm: str, activation: str) -> list[MLP]:
    """Return the networks, each with initial weights of its own."""
    made = []
    for seed in range(MEMBERS):
        torch.manual_seed(seed)
        made.append(MLP(inputs, CLASSES, depth=DEPTH, width=WIDTH, activation=activation, norm=norm))
        initialise_(made[-1], "he" if activation == "relu" else "xavier")
    return made


def batches(inputs: int, steps: int, size: int) -> Batches:
    """Return batches drawn for each network by itself."""
    data = load(INPUTS[inputs]).flat()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(data.train_y), (steps, MEMBERS, size), generator=generator)
    return [(data.train_x[chosen], data.train_y[chosen]) for chosen in drawn]


def one_after_the_other(networks: list[MLP], work: Batches) -> Tensor:
    """Train each network through all its steps; return the losses (members, steps)."""
    losses = torch.empty(MEMBERS, len(work))
    for place, network in enumerate(networks):
        optimizer = torch.optim.SGD(network.parameters(), LR)
        for step, (x, y) in enumerate(work):
            loss = F.cross_entropy(network(x[place]), y[place])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[place, step] = loss.detach()
    return losses


def all_at_once(networks: list[MLP], work: Batches) -> Tensor:
    """Train all of them as one ensemble; return the losses (members, steps)."""
    ensemble = Ensemble(networks)
    optimizer = torch.optim.SGD(ensemble.parameters(), LR)
    losses = torch.empty(MEMBERS, len(work))
    for step, (x, y) in enumerate(work):
        loss = F.cross_entropy(ensemble(x.transpose(1, 2)), y, reduction="none").mean(1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses[:, step] = loss.detach()
    return losses


def seconds(train: Callable[[list[MLP], Batches], Tensor], case: tuple, work: Batches, threads: int) -> float:
    """Return the time that training takes, set-up of the networks left out."""
    networks = members(*case)
    torch.set_num_threads(threads)
    start = time.perf_counter()
    train(networks, work)
    return time.perf_counter() - start


def largest_difference(case: tuple, size: int) -> float:
    """Return the largest relative difference of a loss over the first 10 steps."""
    work = batches(case[0], 10, size)
    a, b = one_after_the_other(members(*case), work), all_at_once(members(*case), work)
    return float(((a - b).abs() / a.abs()).max())


def measure(case: tuple, *, rounds: int, steps: int, size: int) -> dict[str, object]:
    """Return what one case took, by side and round."""
    work = batches(case[0], steps, size)
    sides = {
        "loop, 1 thread": (one_after_the_other, 1),
        "loop, 2 threads": (one_after_the_other, 2),
        "ensemble, 1 thread": (all_at_once, 1),
        "ensemble, 2 threads": (all_at_once, 2),
    }
    took: dict[str, list[float]] = {name: [] for name in sides}
    for nth in range(rounds + 1):
        for name, (train, threads) in sides.items():
            spent = seconds(train, case, work, threads)
            if nth:  # the first round warms up
                took[name].append(spent)
    loop = min(("loop, 1 thread", "loop, 2 threads"), key=lambda name: statistics.median(took[name]))
    ratios = [a / b for a, b in zip(took[loop], took["ensemble, 2 threads"], strict=True)]
    rates = {name: MEMBERS * steps / statistics.median(spent) for name, spent in took.items()}
    return {
        "inputs": case[0],
        "norm": case[1],
        "activation": case[2],
        "seconds": took,
        "model_steps_per_second": rates,
        "faster_loop": loop,
        "ratios": ratios,
        "largest_relative_difference": largest_difference(case, size),
    }


def main() -> None:
    """Measure every case, print a line each, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="training steps a network and round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--reuse-memory", action="store_true", help="xhat.reuse_memory() on both sides")
    arguments = parser.parse_args()
    if arguments.reuse_memory:
        xhat.reuse_memory()
    found = []
    for case in CASES:
        result = measure(case, rounds=arguments.rounds, steps=arguments.steps, size=arguments.batch)
        found.append(result)
        ratios = result["ratios"]
        print(
            f"{case[0]:4} inputs, {case[1]:5} {case[2]:7}: {statistics.median(ratios):5.2f} times the "
            f"{result['faster_loop']} ({min(ratios):.2f}-{max(ratios):.2f}); largest difference "
            f"{result['largest_relative_difference']:.1e}; "
            + ", ".join(f"{k} {v:.0f}" for k, v in result["model_steps_per_second"].items()),
            flush=True,
        )
    if arguments.json:
        settings = {"members": MEMBERS, "depth": DEPTH, "width": WIDTH, "batch": arguments.batch}
        content = {
            "environment": environment() | {"memory_reused": xhat.memory.memory_is_reused()},
            **settings,
            "cases": found,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
