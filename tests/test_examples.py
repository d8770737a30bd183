"""The example of the README runs."""

import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_my_net_is_studied(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "my_net.py", tmp_path)
    command = (
        "study --preset smoke --model my_net:make_model --data my_net:data --claims larger-lr,smoother-loss"
    )
    done = subprocess.run(
        [sys.executable, "-m", "xhat", *command.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "largest rate that trains" in done.stdout
    assert "my_net:make_model on my_net:data" in (tmp_path / "xhat-runs" / "report.html").read_text()
