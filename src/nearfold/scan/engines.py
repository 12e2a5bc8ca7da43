"""The choice of the engine for work on a source: that of this machine, or that of a cluster."""

from __future__ import annotations

from nearfold._utils.config import current, memory_budget
from nearfold.io.base import Source
from nearfold.scan.dask import DaskEngine
from nearfold.scan.engine import Engine
from nearfold.scan.local import LocalEngine

__all__ = ["engine_for"]


def engine_for(source: Source) -> Engine:
    """Return the engine for work on `source`, by the settings of `config_context`.

    Work on an array stays on this machine, as no other machine could open it by name. It has no memory
    budget, as the array is in memory already.

    Raises
    ------
    MissingExtraError
        The settings name a cluster, and Dask is not installed.
    FileError
        No scheduler answers at the address.
    """
    if source.in_memory:
        return LocalEngine(None)
    scheduler = current().scheduler
    return LocalEngine(memory_budget()) if scheduler is None else DaskEngine.at(scheduler)
