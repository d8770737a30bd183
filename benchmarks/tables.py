"""Write the table of docs/memory.md from what benchmarks/reuse_memory.py measured: ``make bench`` runs both."""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reuse_memory.json"
PAGE = ROOT / "docs" / "memory.md"
BEGIN = "<!-- reuse_memory: written by benchmarks/tables.py -->\n"
END = "<!-- end -->"
NAMES = {"forward": "BN→ReLU, forward", "backward": "BN→ReLU, backward", "copy": "copy"}


def table(result: Mapping[str, Any]) -> str:
    """The measurement as Markdown: milliseconds and ratios, then where they were made."""
    times, ratios = result["milliseconds"], result["ratios"]
    rounds = len(times["default"])
    rows = [
        f"| {NAMES[name]} | {spread([run[name] for run in times['default']])} "
        f"| {spread([run[name] for run in times['reused']])} | {spread(ratios[name])} |"
        for name in ratios
    ]
    shape = "×".join(str(size) for size in result["shape"])
    made = result["environment"]
    return "\n".join(
        [
            f"torch, float32, {shape}; median over {rounds} rounds (smallest–largest).",
            "",
            "| | default, ms | reused, ms | ratio |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Made with torch {made['torch']}, Python {made['python']}, {made['libc']}, {made['capability']}, "
            f"{made['cores']} cores, {made['threads']} threads.",
            "",
        ]
    )


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def filled(page: str, table: str) -> str:
    """The page with the table between its marks."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{PAGE} has lost the marks that the table stands between: {BEGIN.strip()} and {END}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def main() -> None:
    """Read the JSON, write the page."""
    if not RESULTS.exists():
        sys.exit(
            f"{RESULTS} is missing. Make it on a machine that does nothing else: "
            f"python benchmarks/reuse_memory.py --json {RESULTS.relative_to(ROOT)}"
        )
    result = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), table(result)), encoding="utf-8")


if __name__ == "__main__":
    main()
