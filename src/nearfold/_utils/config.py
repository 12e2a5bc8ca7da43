"""Settings that hold for all calls: memory, threads and cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import threadpoolctl

from nearfold._utils.memory import default_budget
from nearfold.errors import ParameterError

__all__ = ["Config", "bytes_of", "config_context", "current", "get_config", "memory_budget", "set_config"]

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Config(NamedTuple):
    """The settings of `config_context` and `set_config`; None stands for the default of each."""

    memory: int | None = None
    n_threads: int | None = None
    scheduler: Any = None


class _Unchanged:
    def __repr__(self) -> str:
        return "unchanged"


_UNCHANGED: Any = _Unchanged()

# The settings of the whole process, from `set_config`.
_everywhere = [Config()]

# The settings of the current thread or task, from `config_context`.
_inside: ContextVar[Config | None] = ContextVar("nearfold_config", default=None)


def current() -> Config:
    """Return the settings that are in force for the calling thread or task."""
    return _inside.get() or _everywhere[0]


def get_config() -> dict[str, Any]:
    """Return the settings that are in force, by name.

    Returns
    -------
    dict
        The keys are the parameters of `set_config`; a value of None stands for the default.

    Examples
    --------
    >>> get_config()
    {'memory': None, 'n_threads': None, 'scheduler': None}
    """
    return current()._asdict()


def set_config(
    *, memory: int | str | None = _UNCHANGED, n_threads: int | None = _UNCHANGED, scheduler: Any = _UNCHANGED
) -> None:
    """Change settings of the whole process; those that are not given stay as they are.

    Parameters
    ----------
    memory : int or str or None, optional
        The memory that one call may take, in bytes or as text such as "800MB" or "4GB". None stands for the
        default, half of the memory of the machine or of its container.
    n_threads : int or None, optional
        The number of threads that one call may use. None stands for the default of the numerical libraries:
        one for each core, unless OMP_NUM_THREADS or a similar variable says otherwise.
    scheduler : str, distributed.Client or None, optional
        The Dask cluster that does the work on files: the address of its scheduler, such as
        "tcp://host:8786", or a client of it. None stands for this machine. A cluster needs the extra `dask`.

    Raises
    ------
    ParameterError
        A value can't be understood.

    See Also
    --------
    config_context : Changes settings for a block of code.
    """
    changed = _changed(_everywhere[0], memory, n_threads, scheduler)
    if changed.n_threads is not None:
        _limit(changed.n_threads)
    _everywhere[0] = changed


@contextmanager
def config_context(
    *, memory: int | str | None = _UNCHANGED, n_threads: int | None = _UNCHANGED, scheduler: Any = _UNCHANGED
) -> Iterator[None]:
    """Change settings for the calls inside a `with` block; those that are not given stay as they are.

    Parameters
    ----------
    memory, n_threads, scheduler
        See `set_config`.

    Raises
    ------
    ParameterError
        A value can't be understood.

    Examples
    --------
    >>> import nearfold as nf
    >>> with nf.config_context(memory="800MB"):
    ...     nf.get_config()["memory"]
    800000000
    """
    changed = _changed(current(), memory, n_threads, scheduler)
    token = _inside.set(changed)
    with ExitStack() as stack:
        stack.callback(_inside.reset, token)
        if changed.n_threads is not None:
            stack.enter_context(_limit(changed.n_threads))
        yield


def memory_budget() -> int:
    """Return the bytes of memory that a call may take."""
    memory = current().memory
    return default_budget() if memory is None else memory


def bytes_of(memory: int | str, name: str = "memory") -> int:
    """Return a number of bytes.

    Parameters
    ----------
    memory : int or str
        The number, or text such as "1500000", "800MB" or "1.5GB", with decimal units.
    name : str, default="memory"
        The name of the number in messages.

    Raises
    ------
    ParameterError
        `memory` is neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)?\s*", str(memory).upper())
    if match is None or isinstance(memory, bool):
        raise ParameterError(f"{name} {memory!r} must be a number of bytes, such as 800MB or 4GB")
    return int(float(match[1]) * _UNITS[match[2] or "B"])


def _changed(config: Config, memory: Any, n_threads: Any, scheduler: Any) -> Config:
    if memory is not _UNCHANGED:
        config = config._replace(memory=None if memory is None else bytes_of(memory))
    if n_threads is not _UNCHANGED:
        whole = isinstance(n_threads, int) and not isinstance(n_threads, bool) and n_threads > 0
        if n_threads is not None and not whole:
            raise ParameterError(f"n_threads={n_threads!r} must be a positive whole number, or None")
        config = config._replace(n_threads=n_threads)
    return config if scheduler is _UNCHANGED else config._replace(scheduler=scheduler)


def _limit(n_threads: int) -> Any:
    """Limit the threads of the numerical libraries; faiss is limited too, and must be loaded for that."""
    import faiss  # noqa: F401

    return threadpoolctl.threadpool_limits(n_threads)
