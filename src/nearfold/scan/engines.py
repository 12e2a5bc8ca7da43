"""Which engine does the work on a source: this machine's, or that of a cluster."""

from __future__ import annotations

from nearfold._utils.config import current, memory_budget
from nearfold.io.base import Source
from nearfold.scan.dask import DaskEngine
from nearfold.scan.engine import Engine
from nearfold.scan.local import LocalEngine

__all__ = ["engine_for"]


def engine_for(source: Source) -> Engine:
    """Return the engine that the settings of `config_context` name for work on `source`.

    An array stays on this machine: no other could open it by its name, and it is in memory already, which
    the budget can't change.

    Raises
    ------
    MissingExtraError
        A cluster is asked for, and Dask is not installed.
    FileError
        Nobody answers at the scheduler's address.
    """
    if source.in_memory:
        return LocalEngine(None)
    scheduler = current().scheduler
    return LocalEngine(memory_budget()) if scheduler is None else DaskEngine.at(scheduler)
