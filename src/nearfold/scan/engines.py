"""Which engine does the work on shards."""

from __future__ import annotations

from nearfold._utils.memory import default_budget
from nearfold.scan.dask import DaskEngine
from nearfold.scan.engine import Engine
from nearfold.scan.local import LocalEngine

__all__ = ["engine_for"]


def engine_for(scheduler: str | None = None, memory: int | None = None) -> Engine:
    """Return the engine of this machine, or of the Dask cluster whose scheduler is at an address.

    Parameters
    ----------
    scheduler
        Such as "tcp://host:8786"; None for this machine.
    memory
        Bytes that the work may take on this machine; None for half of its memory, or of its container's.

    Raises
    ------
    MissingExtraError
        Dask is not installed.
    FileError
        Nobody answers at the address.
    """
    if scheduler is None:
        return LocalEngine(default_budget() if memory is None else memory)
    return DaskEngine.connect(scheduler)
