"""How much memory this process may use: the machine's, or what its container leaves of that."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_budget", "memory_limit"]

# Beyond any machine, where the system doesn't tell.
_UNKNOWN = 1 << 62

# The share of the memory there is that work takes unless told otherwise: others live on the machine too,
# and what is read passes through the system's own cache.
_SHARE = 0.5

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def memory_limit(groups: Path = _CGROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the bytes of memory that this process can have.

    Parameters
    ----------
    groups
        Where the system shows control groups, by which containers are limited (versions 1 and 2).
    own_groups
        The file that names the groups of this process.

    Returns
    -------
    int
        The machine's physical memory or the least limit of a control group above this process; a number
        beyond any machine where the system tells neither.
    """
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = _UNKNOWN
    limits = [_number(file) for file in _limit_files(groups, own_groups)]
    return min([physical, *(limit for limit in limits if limit is not None)])


def default_budget() -> int:
    """Return the bytes that work may take where nobody says: half of `memory_limit`."""
    return int(_SHARE * memory_limit())


def _limit_files(groups: Path, own_groups: Path) -> list[Path]:
    """Return the files that may hold a limit of this process: those of its groups and of all above them."""
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
    """Return the limit in a file; None where there is none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None
