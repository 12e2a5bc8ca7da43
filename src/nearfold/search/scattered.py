"""Scattered rows of a file in one call of the system, where it has one for that.

A mapped file whose pages are gone, since it was cut short, ends the process that reads them. Linux copies
them from one place of a process to another as well, and then says that they are gone. A call for each row
would take several times as long.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64

__all__ = ["Scattered"]

# What the system takes in one call.
_MOST = 1024


def _system_copy() -> Any:
    """Return the system's function; None where it has none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        copy = ctypes.CDLL(None, use_errno=True).process_vm_readv
    except (OSError, AttributeError):
        return None
    word, pointer = ctypes.c_ulong, ctypes.c_void_p
    copy.restype, copy.argtypes = ctypes.c_ssize_t, [ctypes.c_int, pointer, word, pointer, word, word]
    return copy


_COPY = _system_copy()


class Scattered:
    """An open file of which many short pieces can be copied at once.

    Parameters
    ----------
    handle
        Of the open file, which may be closed afterwards.
    """

    def __init__(self, handle: int) -> None:
        self._map: mmap.mmap | None = None
        if _COPY is None:
            return
        try:
            self._map = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            # Empty, or on a file system that maps none.
            return
        # Only its address is taken: nothing is ever read through it here.
        self._start = np.frombuffer(self._map, np.uint8).ctypes.data

    def copied(self, places: Int64, size: int, out: npt.NDArray[Any]) -> bool:
        """Fill `out` with pieces of so many bytes; return whether it was done.

        What lies behind the end of the file, or the system doesn't let be copied, is left to whoever
        reads it otherwise. `out` is contiguous.
        """
        if self._map is None or not len(places) or int(places.max()) + size > len(self._map):
            return False
        remote = np.empty((len(places), 2), np.uintp)
        remote[:, 0], remote[:, 1] = self._start + places, size
        start = out.ctypes.data
        for first in range(0, len(places), _MOST):
            part = remote[first : first + _MOST]
            wanted = len(part) * size
            local = np.array([start + first * size, wanted], np.uintp)
            got = _COPY(os.getpid(), local.ctypes.data, 1, part.ctypes.data, len(part), 0)
            if got != wanted:
                return False
        return True
