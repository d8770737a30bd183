import hashlib
import sys
from itertools import count

import pytest

from xhat.data import callable_digest, load_callable
from xhat.errors import ModelError, UsageError

numbers = count()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module with a fresh name into the folder and return its name."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write_module(text, folder=tmp_path):
        name = f"users_code_{next(numbers)}"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        return name

    return write_module


def test_functions_classes_and_dotted_names(write, tmp_path):
    name = write("class Net:\n    @staticmethod\n    def make(): return 7\n\ndef f(): return 3\n")
    assert load_callable(f"{name}:f", tmp_path)() == 3
    assert load_callable(f"{name}:Net.make", tmp_path)() == 7
    assert load_callable(f"{name}:Net", tmp_path).__name__ == "Net"


def test_a_module_in_a_package(write, tmp_path):
    name = write("def f(): return 3\n", tmp_path / "users_package")
    assert load_callable(f"users_package.{name}:f", tmp_path)() == 3


def test_the_working_folder_is_the_default(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_callable(f"{write('def f(): return 3')}:f")() == 3


def test_the_folder_is_once_at_the_front_of_the_path(write, tmp_path):
    name = write("def f(): ...\n")
    sys.path.append(str(tmp_path))
    for _ in range(2):
        load_callable(f"{name}:f", tmp_path)
        assert sys.path[0] == str(tmp_path)
        assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    "reference", ["my_net", "my_net:", ":model", "my-net:model", "a/b:c", "a:b:c", ".a:b", ""]
)
def test_another_form_is_refused(reference):
    with pytest.raises(UsageError, match="has not the form module:callable"):
        load_callable(reference)


def test_a_missing_module_lists_the_nearest(write, tmp_path):
    name = write("")
    with pytest.raises(UsageError, match=f"unknown module '{name}x'. Did you mean .*{name}") as caught:
        load_callable(f"{name}x:f", tmp_path)
    assert f"Looked first in {tmp_path}." in str(caught.value)


def test_a_missing_module_in_a_package_lists_the_nearest(write, tmp_path):
    name = write("", tmp_path / "other_package")
    with pytest.raises(UsageError, match=rf"Did you mean other_package\.{name}\?"):
        load_callable(f"other_package.{name}x:f", tmp_path)


def test_an_empty_folder_has_nothing_to_suggest(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UsageError, match=r"unknown module 'no_such_net'\. Looked first in "):
        load_callable("no_such_net:f", tmp_path)


def test_a_missing_callable_lists_the_nearest(write, tmp_path):
    name = write("def batches(): ...\nbatch = 3\nclass Net:\n    def make(self): ...\n")
    with pytest.raises(UsageError, match=rf"unknown callable in {name} 'batchs'\. Did you mean batches\?"):
        load_callable(f"{name}:batchs", tmp_path)
    with pytest.raises(UsageError, match=r"unknown callable in Net 'mak'\. Did you mean make\?"):
        load_callable(f"{name}:Net.mak", tmp_path)


def test_what_cannot_be_called_is_refused(write, tmp_path):
    with pytest.raises(UsageError, match="is a int; a function or a class is needed"):
        load_callable(f"{write('x = 3')}:x", tmp_path)


FAILING = {
    "an error": ("def f():\n    return 1 / 0\n\nf()\n", ["ZeroDivisionError", "return 1 / 0", "line 4"]),
    "a syntax error": ("def f(:\n", ["SyntaxError", "def f(:"]),
    "a missing dependency": ("import no_such_thing\n", ["No module named 'no_such_thing'", "line 1"]),
    "a script that exits": ("raise SystemExit('usage: ...')\n", ["SystemExit: usage"]),
    "an error in a library": ("import json\njson.loads('{')\n", ["JSONDecodeError", "json.loads('{')"]),
    "a chain": (
        "try:\n    {}['k']\nexcept KeyError as e:\n    raise RuntimeError('outer') from e\n",
        ["KeyError: 'k'", "direct cause", "RuntimeError: outer"],
    ),
}


@pytest.mark.parametrize(("text", "shown"), FAILING.values(), ids=FAILING)
def test_a_failing_import_shows_the_users_frames_only(write, tmp_path, text, shown):
    name = write(text)
    with pytest.raises(ModelError, match=f"module '{name}'") as caught:
        load_callable(f"{name}:f", tmp_path)
    message = str(caught.value)
    assert all(part in message for part in [*shown, f"{name}.py"])
    assert "importlib" not in message
    assert "_callables.py" not in message
    assert "decoder.py" not in message


@pytest.mark.parametrize("taken", ["json", "sys"])
def test_a_name_that_another_module_has_is_refused(tmp_path, monkeypatch, taken):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{taken}.py").write_text("def f(): ...\n")
    with pytest.raises(UsageError, match=rf"{taken}\.py: the name '{taken}' is already taken by .*Rename"):
        load_callable(f"{taken}:f", tmp_path)


def test_the_same_name_in_two_folders_is_refused(write, tmp_path):
    name = write("def f(): return 1\n", tmp_path / "a")
    load_callable(f"{name}:f", tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / f"{name}.py").write_text("def f(): return 2\n")
    with pytest.raises(UsageError, match="already taken"):
        load_callable(f"{name}:f", tmp_path / "b")


def sha256(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def test_the_digest_is_that_of_the_source_file(write, tmp_path):
    text = "def f(): ...\n"
    assert callable_digest(f"{write(text)}:f", tmp_path) == sha256(text)


def test_the_digest_covers_the_module_that_defines_the_callable(write, tmp_path):
    inner = "def f(): ...\n"
    outer = f"from {write(inner)} import f\n"
    assert callable_digest(f"{write(outer)}:f", tmp_path) == sha256(outer, inner)


def test_a_callable_without_source_has_no_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UsageError, match="has no source file"):
        callable_digest("builtins:dict", tmp_path)
