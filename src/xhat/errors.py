"""The exceptions xhat raises on purpose.

XhatError
├── UsageError          a name or an argument that does not exist; the nearest names are suggested
├── DataError           data that is missing, corrupt or of the wrong kind
├── ModelError          a user's network that cannot be imported, called or trained on its data
└── StoreError          a store that cannot be read or written
    └── CorruptRun      one run's folder is damaged; the run is set aside and done again

Each message says what came, where, why it harms and how to mend it.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class XhatError(Exception):
    """Base of all errors that xhat raises on purpose."""


class UsageError(XhatError, ValueError):
    """A name or an argument that does not exist or does not fit."""


class DataError(XhatError):
    """Data that is missing, corrupt or of the wrong kind."""


class ModelError(XhatError):
    """A user's network that cannot be imported, called or trained on its data."""


class StoreError(XhatError):
    """A store that cannot be read or written."""


class CorruptRun(StoreError):  # noqa: N818 - it names a state of the store, found and mended on the way
    """One run's folder is damaged: a file is missing, truncated or altered."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that does not exist, with the nearest ones that do."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(names)}."
    return UsageError(f"unknown {kind} {name!r}. {hint}")
