"""The benchmarks compare what is the same work, and the tables are those of the measured numbers."""

import importlib.util
import json
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ensembles, tables = load("ensembles"), load("tables")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(ensembles, "MEMBERS", 5)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", ensembles.CASES, ids=str)
def test_loop_and_ensemble_do_the_same_work(few, case):
    """The losses of the first 10 steps are equal to float tolerance."""
    assert ensembles.largest_difference(case, 64) < 1e-5


def test_a_case_is_measured_on_all_sides(few):
    found = ensembles.measure((64, "batch", "relu"), rounds=2, steps=2, size=8)
    took = found["seconds"]
    loops = {name: statistics.median(spent) for name, spent in took.items() if name.startswith("loop")}
    assert loops[found["faster_loop"]] == min(loops.values())
    pairs = zip(took[found["faster_loop"]], took["ensemble, 2 threads"], strict=True)
    assert found["ratios"] == [loop / ensemble for loop, ensemble in pairs]


MEASURED = {
    "environment": {
        "torch": "2.13.0",
        "python": "3.11",
        "libc": "glibc 2.36",
        "capability": "AVX2",
        "cores": 2,
        "threads": 2,
    },
    "shape": [2, 3],
    "milliseconds": {
        "default": [{"forward": 3.0, "backward": 8.0, "copy": 1.0}] * 3,
        "reused": [{"forward": 1.5, "backward": 2.0, "copy": 0.5}] * 3,
    },
    "ratios": {"forward": [1.0, 2.0, 4.0], "backward": [4.0] * 3, "copy": [2.0] * 3},
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "BENCHES", tables.BENCHES[:1])
    return tmp_path


def test_a_benchmark_becomes_a_table(root):
    (bench,) = tables.BENCHES
    bench.results.parent.mkdir(parents=True)
    bench.results.write_text(json.dumps(MEASURED), encoding="utf-8")
    page = root / bench.page
    page.write_text(f"before\n{bench.begin}old\n{tables.END}\nafter\n", encoding="utf-8")
    tables.main()
    once = page.read_text(encoding="utf-8")
    tables.main()
    assert page.read_text(encoding="utf-8") == once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    assert "| BN→ReLU, forward | 3.00 (3.00–3.00) | 1.50 (1.50–1.50) | 2.00 (1.00–4.00) |" in once


def test_a_missing_benchmark_says_how_to_make_it(root):
    wanted = r"is missing.*reuse_memory\.py --json benchmarks/results/reuse_memory\.json"
    with pytest.raises(SystemExit, match=wanted):
        tables.main()


@pytest.mark.parametrize("bench", tables.BENCHES, ids=lambda bench: bench.name)
def test_the_table_in_the_document_is_that_of_the_numbers(bench):
    page = (ROOT / bench.page).read_text(encoding="utf-8")
    assert tables.filled(page, bench) == page
