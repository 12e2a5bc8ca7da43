"""HDF5: vectors in one dataset, as ann-benchmarks lays them out (train, test, neighbors)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError, NearfoldError
from nearfold.extras import import_extra
from nearfold.files import cause
from nearfold.io.base import Chunk, Int64, Layout, Source, check_layout
from nearfold.io.location import Location

__all__ = ["SUFFIXES", "read"]

# Endings of such files.
SUFFIXES = (".hdf5", ".h5")

# The dataset that ann-benchmarks keeps the base in.
_BASE = "train"

# deflate, the strongest of HDF5's usual filters, can't shrink numbers further than this.
_MAX_SHRINK = 1032

# Rows fetched by one request where few are wanted.
_TAKE = 1024


class Hdf5Source(Source):
    """A two-dimensional dataset."""

    random_access = True

    def __init__(self, location: Location, column: str | None) -> None:
        self.path = location.name
        self._location = location
        with self._open() as file:
            self._name = _choose(self.path, file, column)
            dataset = file[self._name]
            self.layout: Layout = check_layout(
                self.path, dataset.shape, dataset.dtype, f"dataset {self._name!r}"
            )
            nbytes, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
            if nbytes > stored * (_MAX_SHRINK if dataset.chunks else 1):
                raise FileError(
                    f"{self.path}: dataset {self._name!r} promises {nbytes} bytes and holds {stored}; "
                    f"it is truncated or was never filled"
                )
        self.layout = self.layout._replace(name="vectors")

    @contextmanager
    def _open(self) -> Iterator[Any]:
        h5py = import_extra("h5py", "hdf5", f"{self.path}: HDF5")
        try:
            with self._location.open() as handle, h5py.File(handle, "r") as file:
                yield file
        except OSError as error:
            # The library's own failures come as OSError without a number, and tell a story.
            if error.errno is not None and error.strerror:
                raise FileError(f"{self.path}: can't be read: {cause(error)}") from error
            raise FileError(f"{self.path}: truncated or not an HDF5 file ({_short(error)})") from error
        except NearfoldError:
            raise
        except Exception as error:
            # Damage shows as errors of many kinds: RuntimeError, KeyError, OverflowError, ...
            raise FileError(f"{self.path}: truncated or not an HDF5 file ({_short(error)})") from error

    def chunks(
        self, rows: int, start: int = 0, stop: int | None = None, *, others: bool = True
    ) -> Iterator[Chunk]:
        """Yield slices of the dataset."""
        stop = self.layout.rows if stop is None else stop
        with self._open() as file:
            dataset = file[self._name]
            for first in range(start, stop, rows):
                yield Chunk(dataset[first : min(stop, first + rows)])

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows of these numbers."""
        with self._open() as file:
            dataset = file[self._name]
            pieces = [dataset[rows[i : i + _TAKE]] for i in range(0, len(rows), _TAKE)]
        return np.concatenate(pieces) if pieces else np.empty((0, self.layout.n_features), self.layout.dtype)


def _choose(path: str, file: Any, column: str | None) -> str:
    """Return the name of the dataset with the vectors."""
    names = [name for name in file if hasattr(file[name], "shape")]
    if column is not None:
        if column not in names:
            raise FileError(f"{path}: has no dataset {column!r}; it has {', '.join(names) or 'none'}")
        return column
    if _BASE in names:
        return _BASE
    tables = [name for name in names if len(file[name].shape) == 2]
    if len(tables) != 1:
        raise FileError(
            f"{path}: {'several' if tables else 'none'} of its datasets ({', '.join(names) or 'none'}) "
            f"are tables of vectors; name one with --column"
        )
    return str(tables[0])


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())


def read(location: Location, column: str | None) -> Hdf5Source:
    """Open an HDF5 file; `column` names the dataset, None takes `train` or the only table there is."""
    return Hdf5Source(location, column)
