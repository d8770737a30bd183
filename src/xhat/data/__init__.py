"""Data for the study, held as tensors: shipped, from a folder, or the user's own."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from xhat.data._callables import callable_digest, load_callable, user_traceback
from xhat.data._pixels import standardise
from xhat.data._tensors import TensorData
from xhat.data.cifar10 import cifar10
from xhat.data.digits import digits
from xhat.data.fashion_mnist import fashion_mnist
from xhat.data.user import user_data
from xhat.errors import UsageError, unknown

__all__ = [
    "DATA",
    "TensorData",
    "callable_digest",
    "cifar10",
    "digits",
    "fashion_mnist",
    "load",
    "load_callable",
    "standardise",
    "user_data",
    "user_traceback",
]

DATA: dict[str, Callable[[], TensorData]] = {"fashion-mnist": fashion_mnist, "digits": digits}


def load(name: str, *, folder: Path | None = None) -> TensorData:
    """Return data by name; a process keeps the last four sets, so do not change their tensors in place.

    Args:
        name: a key of ``DATA``; ``cifar10:FOLDER``; or ``module:callable`` for the user's own.
        folder: where the user's code lies, and what a relative FOLDER starts from; the working folder by
            default.

    Raises:
        UsageError: no data have that name.
        ModelError: the user's module cannot be imported.
        DataError: the data are missing, damaged or of the wrong kind.
    """
    return _load(name, (folder or Path.cwd()).resolve())


@lru_cache(maxsize=4)
def _load(name: str, folder: Path) -> TensorData:
    if name in DATA:
        return DATA[name]()
    kind, colon, rest = name.partition(":")
    if kind == "cifar10":
        if not rest:
            raise UsageError("cifar10 needs the folder of its files, as in cifar10:/data/cifar-10.")
        return cifar10(folder / Path(rest).expanduser())
    if colon:
        return user_data(name, folder=folder)
    raise unknown("data", name, [*DATA, "cifar10:FOLDER", "module:callable"])
