"""Reuse of freed memory by glibc's allocator, opt-in."""

import ctypes
import os
import sys
import warnings
from typing import Any

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4

_reused = False
_warned = False


class _Location(ctypes.Structure):
    """Dl_info of <dlfcn.h>: the library that a symbol lies in."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def reuse_memory() -> bool:
    """Let this process keep freed memory and use it again: memory-bound operations get faster.

    By default glibc maps every large allocation afresh and unmaps it when freed, so that each large output
    of an operation costs a page fault per page, more than the arithmetic of a batch norm. This sets
    ``mallopt(M_MMAP_MAX, 0)`` and ``mallopt(M_TRIM_THRESHOLD, 2³¹ − 1)``. ``benchmarks/reuse_memory.py``
    measures what it gains on a machine.

    The cost: the process keeps its peak memory, and some more that small allocations fragment, until it
    ends; and the setting holds for everything in the process, not only for torch. It cannot be undone. A
    child started by fork inherits it, one started afresh does not: set ``XHAT_REUSE_MEMORY=1`` in its
    environment, which does the same on ``import xhat``.

    Returns:
        Whether it is in force. Where malloc is not glibc's (musl, macOS, Windows, a preloaded jemalloc or
        tcmalloc) nothing changes, the result is False, and the first call warns.
    """
    global _reused
    if _reused:
        return True
    libc = _glibc()
    if libc is None:
        _warn_once(
            "memory is not reused: malloc in this process is not glibc's, whose settings it takes. Nothing"
            " was changed; drop the call and XHAT_REUSE_MEMORY here."
        )
        return False
    # mallopt returns 1 for success and 0 for failure, without an errno.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
    _reused = all(libc.mallopt(name, value) == 1 for name, value in settings)
    if not _reused:
        _warn_once("memory is not reused: glibc's mallopt refused the setting. Nothing was changed.")
    return _reused


def memory_is_reused() -> bool:
    """Return whether :func:`reuse_memory` is in force in this process."""
    return _reused


def _from_environment() -> None:
    """Do what XHAT_REUSE_MEMORY asks for: 1 is yes, 0 or nothing no."""
    value = os.environ.get("XHAT_REUSE_MEMORY", "")
    if value == "1":
        reuse_memory()
    elif value not in ("", "0"):
        _warn_once(f"XHAT_REUSE_MEMORY={value!r} is neither 0 nor 1, so memory is not reused. Set it to 1.")


def _glibc() -> Any:
    """Return the C library if it is glibc and its malloc is the one in use, else None."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    # Only glibc has gnu_get_libc_version. A preloaded allocator shadows malloc but not always mallopt,
    # which would then report success and change nothing, so both must lie in the same library.
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    glibc, malloc = _Location(), _Location()
    for symbol, location in ((libc.gnu_get_libc_version, glibc), (libc.malloc, malloc)):
        libc.dladdr(ctypes.cast(symbol, ctypes.c_void_p), ctypes.byref(location))
    return libc if malloc.base == glibc.base else None


def _warn_once(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(message, RuntimeWarning, stacklevel=3)
