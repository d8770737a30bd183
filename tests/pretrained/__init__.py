"""Real trained networks and images for tests; a test that calls one is skipped where its wheel is missing.

Where XHAT_REQUIRE_PRETRAINED=1 stands in the environment, as in CI, the test fails instead.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import pytest

from . import images, models

P = ParamSpec("P")
R = TypeVar("R")


def _or_skip(make: Callable[P, R]) -> Callable[P, R]:
    @wraps(make)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return make(*args, **kwargs)
        except models.MissingWheelError as missing:
            if os.environ.get("XHAT_REQUIRE_PRETRAINED") == "1":
                pytest.fail(f"{missing}; XHAT_REQUIRE_PRETRAINED=1 asks for it")
            pytest.skip(str(missing))

    return wrapped


mobilenet_v2 = _or_skip(models.mobilenet_v2)
svhn_vgg = _or_skip(models.svhn_vgg)
photos = _or_skip(images.photos)
svhn_digits = _or_skip(images.svhn_digits)
