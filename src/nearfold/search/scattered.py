"""Reading of many scattered rows of a file by one system call, on systems that offer it.

If a mapped file is truncated, reading the lost pages ends the process. Linux can copy mapped pages within a
process by a system call that fails instead. One call for each row would take several times as long.
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

# The most pieces that one call copies.
_MOST = 1024


def _system_copy() -> Any:
    """Return the system's function process_vm_readv, or None if it has none."""
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
    handle : int
        The file descriptor of the open file, which may be closed afterwards.
    """

    def __init__(self, handle: int) -> None:
        self._map: mmap.mmap | None = None
        if _COPY is None:
            return
        try:
            self._map = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            # The file is empty, or its file system has no mapping.
            return
        # Only the address of the mapping is used; nothing is read through it directly.
        self._start = np.frombuffer(self._map, np.uint8).ctypes.data

    def copied(self, places: Int64, size: int, out: npt.NDArray[Any]) -> bool:
        """Copy pieces of the file into an array.

        Parameters
        ----------
        places : ndarray of shape (n,), int64
            The offsets of the pieces in the file, in bytes.
        size : int
            The bytes of each piece.
        out : ndarray of n * size bytes
            The contiguous array to fill.

        Returns
        -------
        bool
            Whether all pieces were copied. If not, as pieces lie beyond the end of the file or the system
            refuses the copy, the caller must read them otherwise.
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
