"""Write docs/peers.md: other tools on cases of batch norm, and xhat on the same.

    python docs/make_peers.py                    # tools of torch, and what was seen of the others
    python docs/make_peers.py --packages PEERS   # run the others too: requirements/peers.txt

What the other packages did stands in benchmarks/results/peers.json with their versions and the day.
"""

import argparse
import contextlib
import datetime
import json
import sys
import warnings
from importlib import metadata
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from _peers import CASES, Case, Seen
from _peers_others import CASES as OTHERS

PAGE = Path(__file__).with_name("peers.md")
SEEN = Path(__file__).parents[1] / "benchmarks" / "results" / "peers.json"

HEAD = """\
# What other tools do

<!-- Written by docs/make_peers.py: do not edit. -->

Folding, recalibrating, freezing and converting batch norms has been done before. This is where it goes wrong, each
case with what `xhat` does on the same model and data. Cases are small on purpose: a whole zoo of architectures is
in [Folding, measured](zoo.md). Every row is a test, `tests/surgery/test_peers.py`; of torch's own tools the test also
sees that they still fail, so that a row goes when it is mended.
"""


def run_others(folder: Path) -> dict[str, dict[str, object]]:
    """Run the tools that are packages of their own, from the folder that they are installed in."""
    sys.path.append(str(folder))
    versions = {x.name: x.version for x in metadata.distributions(path=[str(folder)])}
    found: dict[str, dict[str, object]] = {}
    for case in OTHERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = case.peer()
        found[type(case).__name__] = {
            "seen": seen.text,
            "right": seen.right,
            "package": case.package,
            "version": versions[case.package],
            "torch": torch.__version__,
            "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
    return found


def others() -> list[tuple[Case, Seen, str]]:
    """Return the cases of other packages, what was seen, and which version when."""
    stored = json.loads(SEEN.read_text(encoding="utf-8"))
    rows = []
    for case in OTHERS:
        found = stored[type(case).__name__]
        made = f"{found['package']} {found['version']}, {found['day']}"
        rows.append((case, Seen(found["seen"], found["right"]), made))
    return rows


def page() -> str:
    """Return the page."""
    version = f"torch {torch.__version__.partition('+')[0]}"
    rows = [(case, case.peer(), version) for case in CASES] + others()
    table = [
        f"| {_code(case.tool)} | {case.what} | {_code(seen.text)} | {_code(case.ours().text)} | {made} |"
        for case, seen, made in rows
    ]
    head = ["| tool | case | what it does | xhat | seen with |", "|---|---|---|---|---|"]
    return "\n".join([HEAD, *head, *table]) + "\n"


def _code(text: str) -> str:
    return f"`{text}`" if "." in text and " " not in text and text[0].isalpha() else text


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", type=Path, help="the folder that requirements/peers.txt is installed in"
    )
    arguments = parser.parse_args()
    if arguments.packages:
        with contextlib.redirect_stdout(sys.stderr):
            SEEN.write_text(json.dumps(run_others(arguments.packages), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
