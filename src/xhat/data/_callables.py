"""Find a user's callable by its name, ``module:callable``, as uvicorn does."""

import hashlib
import importlib
import os
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from xhat.errors import ModelError, UsageError, unknown

_OURS = (f"{Path(__file__).parents[1]}{os.sep}", f"{Path(importlib.__file__).parent}{os.sep}", "<frozen ")
_LIBRARIES = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def load_callable(reference: str, folder: Path | None = None) -> Callable[..., Any]:
    """Import the module and return the callable that ``reference`` names.

    ``folder`` is put at the front of ``sys.path`` and stays there, since the callable may import more when
    it runs.

    Args:
        reference: ``module:callable``; both may be dotted, as in ``nets.small:Small.make``.
        folder: where the user's code lies; the working folder by default.

    Raises:
        UsageError: the reference has another form, or names what does not exist or cannot be called.
        ModelError: the import failed in the user's code; the message carries the user's own traceback.
    """
    module, names = _parts(reference)
    value: Any = _imported(module, (folder or Path.cwd()).resolve())
    for name in names:
        if not hasattr(value, name):
            known = (near for near in dir(value) if near[0] != "_" and callable(getattr(value, near, None)))
            owner = getattr(value, "__name__", type(value).__name__)
            raise _missing(f"callable in {owner}", name, known, f"{reference!r} needs it.")
        value = getattr(value, name)
    if not callable(value):
        raise UsageError(f"{reference!r} is a {type(value).__name__}; a function or a class is needed.")
    return value  # type: ignore[no-any-return]


def callable_digest(reference: str, folder: Path | None = None) -> str:
    """Return the sha256 (hex) of the source file of the module that holds the callable.

    Where the named module has the callable from another one, both files enter, the named one first.

    Raises:
        UsageError: as ``load_callable``, or the module has no file.
        ModelError: as ``load_callable``.
    """
    target = load_callable(reference, folder)
    modules = dict.fromkeys([_parts(reference)[0], getattr(target, "__module__", None) or ""])
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    sources = [Path(file).read_bytes() for file in files if file]
    if not sources:
        raise UsageError(f"{reference!r} has no source file, so a change in it could not be noticed.")
    return hashlib.sha256(b"".join(sources)).hexdigest()


def user_traceback(error: BaseException) -> str:
    """Return an exception as Python prints it, with the frames of the user's own code only."""
    whole = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = whole
    while link is not None:
        theirs = [frame for frame in link.stack if not frame.filename.startswith(_OURS)]
        users = [frame for frame in theirs if not frame.filename.startswith(_LIBRARIES)]
        link.stack = traceback.StackSummary.from_list(users or theirs)
        link = link.__cause__ or link.__context__
    return "".join(whole.format() if whole.stack else whole.format_exception_only())


def _parts(reference: str) -> tuple[str, list[str]]:
    module, _, names = reference.partition(":")
    if not all(part.isidentifier() for part in (module + "." + names).split(".")):
        raise UsageError(
            f"{reference!r} has not the form module:callable, as in my_net:model for model in my_net.py."
        )
    return module, names.split(".")


def _imported(module: str, folder: Path) -> object:
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
    importlib.invalidate_caches()  # the file may be younger than Python's listing of its folder
    _refuse_taken_name(module.partition(".")[0], folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module}.".startswith(f"{missing}."):
            raise _failed(module, folder, error) from error
        parent = missing.rpartition(".")[0]
        paths = getattr(sys.modules.get(parent), "__path__", [str(folder)])
        known = (f"{parent}.{near.name}".lstrip(".") for near in pkgutil.iter_modules(paths))
        raise _missing("module", missing, known, f"Looked first in {folder}.") from None
    except (Exception, SystemExit) as error:  # a script may call sys.exit() when it is imported
        raise _failed(module, folder, error) from error


def _refuse_taken_name(name: str, folder: Path) -> None:
    """Refuse a user's file whose name another module already has: Python would hand out the other one."""
    loaded, mine = sys.modules.get(name), PathFinder.find_spec(name, [str(folder)])
    if loaded is None or mine is None or mine.origin is None:
        return
    file = getattr(loaded, "__file__", None)
    if file is None or Path(file).resolve() != Path(mine.origin).resolve():
        raise UsageError(
            f"{mine.origin}: the name {name!r} is already taken by {file or 'a module built into Python'}, "
            "which would be used instead. Rename the file."
        )


def _failed(module: str, folder: Path, error: BaseException) -> ModelError:
    return ModelError(
        f"module {module!r} (folder {folder}) failed while it was imported; mend it and try again.\n\n"
        f"{user_traceback(error)}"
    )


def _missing(kind: str, name: str, known: Iterable[str], where: str) -> UsageError:
    names = list(known)
    return UsageError(f"{unknown(kind, name, names) if names else f'unknown {kind} {name!r}.'} {where}")
