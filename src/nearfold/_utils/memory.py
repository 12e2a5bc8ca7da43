"""The memory that this process may use: that of the machine, or the limit of its container."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["default_budget", "memory_limit", "release_unused"]

# A number of bytes beyond any machine, for systems that don't tell their memory.
_UNKNOWN = 1 << 62

# The default share of the memory for one call. The rest is for other processes and for the system's file
# cache, through which all data is read.
_SHARE = 0.5

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def memory_limit(groups: Path = _CGROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the bytes of memory that this process can have.

    Parameters
    ----------
    groups : path, default="/sys/fs/cgroup"
        The folder of the control groups (version 1 or 2), which limit containers.
    own_groups : path, default="/proc/self/cgroup"
        The file that names the control groups of this process.

    Returns
    -------
    int
        The machine's physical memory, or the least limit of a control group of this process if that is
        lower. If the system tells neither, it is a number beyond any machine.
    """
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = _UNKNOWN
    limits = [_number(file) for file in _limit_files(groups, own_groups)]
    return min([physical, *(limit for limit in limits if limit is not None)])


def default_budget() -> int:
    """Return the bytes that a call may take if no setting says otherwise: half of `memory_limit`."""
    return int(_SHARE * memory_limit())


def release_unused() -> None:
    """Give memory that was freed back to the system, where the C library and Arrow would keep it.

    After work in many threads, glibc keeps hundreds of megabytes for arrays to come. What is done next would
    be counted on top of them.
    """
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        # Other C libraries have no such function.
        return


def _limit_files(groups: Path, own_groups: Path) -> list[Path]:
    """Return the files that may hold a limit of this process: those of its groups and of their parents."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        lines = []
    files = [groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "":
            base, file = groups, "memory.max"
        elif "memory" in controllers.split(","):
            base, file = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = base / name.lstrip("/")
        files += [folder / file for folder in (own, *own.parents) if base in (folder, *folder.parents)]
    return files


def _number(file: Path) -> int | None:
    """Return the limit that a file holds, or None."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None
