"""What tests of surgery share."""

from collections.abc import Iterator

import pytest

from tests.surgery.nets import quickly


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """One thread, and no garbage sought in torch."""
    with quickly():
        yield
