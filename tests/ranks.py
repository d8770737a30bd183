"""Run a piece of code in two real processes that meet over torch.distributed."""

import subprocess
import sys
from pathlib import Path


def run_two(worker: str, folder: Path) -> None:
    """Run the code as rank 0 and rank 1, with rank and folder as its arguments; both must end well."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", worker, str(rank), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
