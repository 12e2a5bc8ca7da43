"""Which engine does the work on shards."""

from __future__ import annotations

from nearfold.scale.dask import DaskEngine
from nearfold.scale.engine import Engine
from nearfold.scale.local import LocalEngine

__all__ = ["engine_for"]


def engine_for(scheduler: str | None = None, memory: int = 1_500_000_000) -> Engine:
    """Return the engine of this machine, or of the Dask cluster whose scheduler is at an address.

    Parameters
    ----------
    scheduler
        Such as "tcp://host:8786"; None for this machine.
    memory
        Bytes that the work may take.

    Raises
    ------
    MissingExtraError
        Dask is not installed.
    FileError
        Nobody answers at the address.
    """
    if scheduler is None:
        return LocalEngine(memory)
    return DaskEngine.connect(scheduler)
