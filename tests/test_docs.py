"""The documents: their code runs, their links lead somewhere, and what is generated is up to date."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from xhat.study.claims import CLAIMS
from xhat.study.laws import LAWS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "README.zh.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)?(?:#([^)]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

# Each block by itself, as a reader would copy it; one process a page, since torch takes long to import.
DRIVER = """
import runpy, sys, warnings
import torch, xhat
warnings.simplefilter("error")
for file in sys.argv[1:]:
    runpy.run_path(file, run_name="__main__")
"""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))], ids=relative
)
def test_code_in_the_documents_runs(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = []
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        files.append(tmp_path / f"{page.stem}_line_{line + 1}.py")
        files[-1].write_text("\n" * line + block[1], encoding="utf-8")  # tracebacks tell the page's lines
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, files)],
        cwd=tmp_path,
        env={**os.environ, "XHAT_REUSE_MEMORY": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"{relative(page)}:\n{ran.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    for place, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / place if place else page
        assert target.exists(), f"{relative(page)} links to {place}"
        if anchor:
            headings = HEADING.findall(target.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", [*CLAIMS, *LAWS])
def test_readme_names_every_claim_and_law(name: str) -> None:
    assert f"\n| `{name}` | " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_rules_page_is_that_of_the_source() -> None:
    maker = load("docs/make_rules.py")
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page(), "run python docs/make_rules.py"


def test_claims_page_is_that_of_the_source() -> None:
    maker = load("docs/make_claims.py")
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page(), "run python docs/make_claims.py"
