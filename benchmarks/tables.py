"""Write the tables of docs/ from what the benchmarks measured: ``make bench`` runs both."""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
END = "<!-- end -->"
OPERATIONS = {"forward": "BN→ReLU, forward", "backward": "BN→ReLU, backward", "copy": "copy"}

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """A benchmark, ``benchmarks/<name>.py``, and the page that its table stands in."""

    name: str
    page: str
    table: Callable[[Result], list[str]]

    @property
    def results(self) -> Path:
        """Where its JSON lies."""
        return ROOT / "benchmarks" / "results" / f"{self.name}.json"

    @property
    def begin(self) -> str:
        """What stands before the table."""
        return f"<!-- {self.name}: written by benchmarks/tables.py -->\n"


def reuse_memory(result: Result) -> list[str]:
    """Milliseconds and ratios, then where they were made."""
    times, ratios = result["milliseconds"], result["ratios"]
    rows = [
        f"| {OPERATIONS[name]} | {spread([run[name] for run in times['default']])} "
        f"| {spread([run[name] for run in times['reused']])} | {spread(ratios[name])} |"
        for name in ratios
    ]
    shape = "×".join(str(size) for size in result["shape"])
    return [
        f"torch, float32, {shape}; median over {len(times['default'])} rounds (smallest–largest).",
        "",
        "| | default, ms | reused, ms | ratio |",
        "|---|---|---|---|",
        *rows,
        "",
        f"{made(result)}, {result['environment']['threads']} threads.",
    ]


def ensembles(result: Result) -> list[str]:
    """Training steps of a network a second on each side, and the ratio, by case."""
    rows = []
    for case in result["cases"]:
        rate = case["model_steps_per_second"]
        cells = [f"{rate[name]:,.0f}" for name in rate]
        differs = f"{case['largest_relative_difference']:.0e}"
        norm = {"none": "no norm", "batch": "BN"}[case["norm"]]
        rows.append(
            f"| {case['inputs']} | {norm}, {case['activation']} | {' | '.join(cells)} "
            f"| **{spread(case['ratios'])}** | {differs} |"
        )
    sides = list(result["cases"][0]["model_steps_per_second"])
    rounds = len(result["cases"][0]["ratios"])
    return [
        f"{result['members']} MLPs of {result['depth']}×{result['width']}, batch {result['batch']}; training steps of "
        f"one network a second. Ratio: ensemble on 2 threads over the faster loop, median over {rounds} rounds "
        "(smallest–largest). Difference: the largest relative one of a loss in the first 10 steps.",
        "",
        f"| inputs | network | {' | '.join(sides)} | ratio | difference |",
        f"|---|---|{'---|' * len(sides)}---|---|",
        *rows,
        "",
        f"{made(result)}, memory {'' if result['environment']['memory_reused'] else 'not '}reused on both sides.",
    ]


def made(result: Result) -> str:
    """Where the numbers were made."""
    where = result["environment"]
    libc = f"{where['libc']}, " if "libc" in where else ""
    return (
        f"Made with torch {where['torch']}, Python {where['python']}, {libc}{where['capability']}, "
        f"{where['cores']} cores"
    )


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def filled(page: str, bench: Bench) -> str:
    """The page with the table between its marks."""
    head, begin, rest = page.partition(bench.begin)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        sys.exit(
            f"{bench.page} has lost the marks that the table stands between: {bench.begin.strip()} and {END}"
        )
    table = "\n".join(bench.table(json.loads(bench.results.read_text(encoding="utf-8"))))
    return f"{head}{begin}\n{table}\n\n{end}{tail}"


BENCHES = (
    Bench("reuse_memory", "docs/memory.md", reuse_memory),
    Bench("ensembles", "docs/ensembles.md", ensembles),
)


def main() -> None:
    """Read the JSON, write the pages."""
    for bench in BENCHES:
        if not bench.results.exists():
            sys.exit(
                f"{bench.results} is missing. Make it on a machine that does nothing else: "
                f"python benchmarks/{bench.name}.py --json {bench.results.relative_to(ROOT)}"
            )
        page = ROOT / bench.page
        page.write_text(filled(page.read_text(encoding="utf-8"), bench), encoding="utf-8")


if __name__ == "__main__":
    main()
