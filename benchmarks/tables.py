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


def fold_zoo(result: Result) -> list[str]:
    """What became of the models and of their BN layers, by tool; then the reasons of refusals."""
    total = result["summary"]
    xhat, fx = total["xhat"], total["fx"]
    blind = f"The outputs do not depend on {total['blind']} of them. " if "blind" in total else ""
    left = len(result["chosen"]) - total["models"] - total["not_run"]
    rest = f" {left} of {len(result['chosen'])} chosen, in random order, are still to be run." if left else ""
    whole = {who["models"] for who in (xhat, fx)} == {total["models"]}
    zoos = " and ".join(f"{zoo} {version}" for zoo, version in result["zoos"].items())
    rows = {
        "models": [who["models"] for who in (xhat, fx)],
        "of these refused as a whole": [len(who["refused_as_a_whole"]) for who in (xhat, fx)],
        "of these silently wrong": [len(who["wrong"]) for who in (xhat, fx)],
        "BN layers folded, in right models": [who["folded"] for who in (xhat, fx)],
        "of these staying as a neutral layer": [who["neutral"] for who in (xhat, fx)],
        "directly behind their only layer, not folded": [who["missed"] for who in (xhat, fx)],
        "the same, of classes of the zoo": [who["missed_own_forward"] for who in (xhat, fx)],
    }
    return [
        f"{total['models']} architectures of {zoos}, {total['norms']:,} BN layers. {total['direct']:,} of them "
        f"directly follow their only convolution or linear layer, and {total['direct_own_forward']:,} more where one "
        "of both is a class of the zoo with a forward of its own. "
        f"{blind}"
        f"{total['not_run']} chosen architectures could not be built or run."
        f"{'' if whole else ' The run is not whole.'}{rest}",
        "",
        "| | `xhat.fold` | torch.fx `fuse` |",
        "|---|---|---|",
        *(f"| {what} | {ours:,} | {theirs:,} |" for what, (ours, theirs) in rows.items()),
        "",
        "Why `xhat.fold` left a BN where it is:",
        "",
        "| reason | BN layers |",
        "|---|---|",
        *(f"| {_cell(reason)} | {count:,} |" for reason, count in xhat["reasons"].items()),
        "",
        f"{made(result)}, float64, one thread a model.",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def fold_speed(result: Result) -> list[str]:
    """Milliseconds of a forward pass before and after folding, and ratios."""
    rows = []
    for case in result["cases"]:
        took, ratios = case["milliseconds"], case["ratios"]
        cells = [f"{statistics.median(took[side]):.2f}" for side in ("before", "fx", "xhat")]
        rows.append(
            f"| {case['network']}, {case['size']}×{case['size']} | {case['batch']} | {case['threads']} "
            f"| {' | '.join(cells)} | {spread(ratios['fx'])} | **{spread(ratios['xhat'])}** |"
        )
    rounds = len(result["cases"][0]["ratios"]["xhat"])
    furthest = max(case["largest_relative_difference"]["xhat"] for case in result["cases"])
    return [
        f"Milliseconds of a forward pass, median over {rounds} rounds; speed-up over the network as it is: median "
        f"(smallest–largest). Outputs of `xhat.fold` differ by {furthest:.0e} of the largest at most.",
        "",
        "| network | batch | threads | before | torch.fx | xhat | torch.fx: speed-up | xhat: speed-up |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"{made(result)}.",
    ]


def doctor_speed(result: Result) -> list[str]:
    """Seconds of the doctor and of a plain pass, and the ratios."""
    rows = [
        f"| {name} | {spread(spent)} | {spread(result['ratios'][name]) if name in result['ratios'] else ''} |"
        for name, spent in result["seconds"].items()
    ]
    return [
        f"MobileNetV2, {result['batches']} batches of {result['size']} crops of photographs of 224×224; median over "
        f"{len(result['seconds']['plain pass'])} rounds (smallest–largest).",
        "",
        "| | seconds | plain passes |",
        "|---|---|---|",
        *rows,
        "",
        f"{made(result)}.",
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
    Bench("fold_speed", "docs/zoo.md", fold_speed),
    Bench("fold_zoo", "docs/zoo.md", fold_zoo),
    Bench("doctor_speed", "docs/doctor.md", doctor_speed),
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
