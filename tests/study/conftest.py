from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from .users import module_writer


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small networks are faster so, and by far where tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    return module_writer(tmp_path, monkeypatch)
