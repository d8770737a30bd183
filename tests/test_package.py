"""What the package offers by its name alone."""

import subprocess
import sys

import pytest

import xhat

PARTS = ("data", "functional", "landscape", "models", "nn", "reference", "report", "study")


def test_every_part_is_there_without_an_import_of_its_own() -> None:
    asserts = "; ".join(f"assert xhat.{name}.__name__ == 'xhat.{name}'" for name in PARTS)
    subprocess.run([sys.executable, "-c", f"import xhat; {asserts}"], check=True)


def test_importing_xhat_does_not_load_torch() -> None:
    code = "import sys, xhat; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'batchnorm'"):
        _ = xhat.batchnorm  # type: ignore[attr-defined]


def test_dir_names_every_part() -> None:
    assert set(PARTS) <= set(dir(xhat))


def test_public_names_exist() -> None:
    for part in PARTS:
        module = getattr(xhat, part)
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"xhat.{part}.{name}"
