"""Memory reuse: its effect on page faults, seen from a child process, and its refusals."""

import json
import os
import subprocess
import sys
import warnings

import pytest

from xhat import memory

on_glibc = pytest.mark.skipif(memory._glibc() is None, reason="malloc is not glibc's here")

FAULTS = """
import json, resource, torch, xhat.memory

def faults():
    def fill():
        torch.empty(8 * 2**20).fill_(1.0)  # 32 MB, freed at once
    for _ in range(20):  # small allocations carve some regions up before the sizes settle
        fill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        fill()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
answers = [xhat.memory.memory_is_reused(), xhat.memory.reuse_memory(), xhat.memory.reuse_memory()]
print(json.dumps({"plain": plain, "reused": faults(), "answers": [*answers, xhat.memory.memory_is_reused()]}))
"""


class Allocator:
    """Stands in for the C library, so that the tests' own process is not changed."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.calls: list[tuple[int, int]] = []

    def mallopt(self, name: int, value: int) -> int:
        self.calls.append((name, value))
        return self.answer


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reused", False)
    monkeypatch.setattr(memory, "_warned", False)
    monkeypatch.delenv("XHAT_REUSE_MEMORY", raising=False)


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    allocator = Allocator(answer=1)
    monkeypatch.setattr(memory, "_glibc", lambda: allocator)
    return allocator


def child(code: str, **environment: str) -> str:
    """Run code in a Python of its own and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


@on_glibc
def test_freed_memory_is_not_faulted_in_again() -> None:
    seen = json.loads(child(FAULTS))
    assert seen["answers"] == [False, True, True, True]
    assert seen["plain"] >= 20 * 8  # even with huge pages of 4 MB
    assert seen["reused"] < seen["plain"] / 10


@on_glibc
@pytest.mark.parametrize(("value", "expected"), [("1", "True"), ("0", "False"), ("", "False")])
def test_the_environment_is_honoured_on_import(value: str, expected: str) -> None:
    code = "import xhat; from xhat.memory import memory_is_reused; print(memory_is_reused())"
    assert child(code, XHAT_REUSE_MEMORY=value) == expected


def test_the_settings_are_made_once(allocator: Allocator) -> None:
    assert memory.reuse_memory() is True
    assert memory.reuse_memory() is True
    assert memory.memory_is_reused() is True
    assert allocator.calls == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX, M_TRIM_THRESHOLD


def test_a_refusal_by_mallopt_is_reported(allocator: Allocator) -> None:
    allocator.answer = 0
    with pytest.warns(RuntimeWarning, match="mallopt refused"):
        assert memory.reuse_memory() is False
    assert memory.memory_is_reused() is False


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_it_warns_once_and_does_nothing(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.warns(RuntimeWarning, match="not glibc's") as caught:
        assert memory.reuse_memory() is False
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert memory.reuse_memory() is False
    assert memory.memory_is_reused() is False


class Musl:
    """A C library without glibc's version function."""


def test_musl_is_told_from_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _name: Musl())
    assert memory._glibc() is None


@on_glibc
def test_a_preloaded_allocator_is_told_from_glibc(tmp_path) -> None:
    compiler = next((c for c in ("cc", "gcc", "clang") if _works(c)), None)
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "malloc.c", tmp_path / "libother.so"
    source.write_text(
        "void *__libc_malloc(unsigned long); void *malloc(unsigned long n) { return __libc_malloc(n); }"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    code = "import xhat.memory; print(xhat.memory._glibc())"
    assert child(code, LD_PRELOAD=str(library)) == "None"
    assert child(code) != "None"


def _works(compiler: str) -> bool:
    try:
        return subprocess.run([compiler, "--version"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("value", "calls"), [("1", 2), ("0", 0), ("", 0), (None, 0)])
def test_what_the_environment_asks_for(
    value: str | None, calls: int, allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("XHAT_REUSE_MEMORY", value)
    memory._from_environment()
    assert len(allocator.calls) == calls


def test_other_values_of_the_variable_are_reported(
    allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XHAT_REUSE_MEMORY", "yes")
    with pytest.warns(RuntimeWarning, match="'yes' is neither 0 nor 1"):
        memory._from_environment()
    assert allocator.calls == []
