"""The format HDF5: vectors in one dataset, in the layout of ann-benchmarks (train, test) or in groups.

HDF5 files can refer to other files: to HDF5 files by links and virtual datasets, and to any file by external
storage. `_open_dataset` is the only place where a dataset is opened, and refuses all such references.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold._utils.extras import import_extra
from nearfold._utils.files import cause, one_line
from nearfold.errors import FileError, NearfoldError
from nearfold.io.base import HELD_BYTES, Chunk, Layout, Source, check_layout, listed
from nearfold.io.location import Location

__all__ = ["SUFFIXES", "read"]

# The suffixes of such files.
SUFFIXES = (".hdf5", ".h5")

# The names of the base and of its queries in files of ann-benchmarks.
_BASE, _QUERIES = "train", "test"

# The strongest compression of deflate, which is the strongest of HDF5's usual filters.
_MAX_SHRINK = 1032

# The filters that HDF5 and h5py include. For others HDF5 would load any library that it finds.
_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})

# The number of rows that `take` fetches at a time.
_TAKE = 1024

# The most datasets that are searched for the vectors, and the most links that are followed to one.
_MAX_NAMES, _MAX_LINKS = 10_000, 16


class Hdf5Source(Source):
    """A two-dimensional dataset of an HDF5 file."""

    random_access = True

    def __init__(self, location: Location, column: str | None) -> None:
        self.path = location.name
        self._location = location
        self._cache = 1 << 20
        with self._open() as file:
            self._name = _choose(self.path, file, column)
            dataset = _open_dataset(self.path, file, self._name)
            self.layout: Layout = _layout_of(self.path, self._name, dataset)
            if self._name == _BASE and file.get(_QUERIES, getlink=True) is not None:
                self.query_column = _QUERIES
            self._cache = max(self._cache, _held_bytes(self.path, self._name, dataset))

    @contextmanager
    def _open(self) -> Iterator[Any]:
        h5py = import_extra("h5py", "hdf5", f"{self.path}: HDF5")
        try:
            # The cache is large enough that each compressed piece is decompressed only once.
            with (
                self._location.open() as handle,
                h5py.File(handle, "r", rdcc_nbytes=self._cache) as file,
            ):
                yield file
        except NearfoldError:
            raise
        except Exception as error:
            # Errors of the library itself are OSErrors without a number and with a long text.
            if isinstance(error, OSError) and error.errno is not None and error.strerror:
                raise FileError(f"{self.path}: can't be read: {cause(error)}") from error
            # Damage shows as errors of many kinds: RuntimeError, KeyError, OverflowError, ...
            raise FileError(f"{self.path}: truncated or not an HDF5 file ({one_line(error)})") from error

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield slices of the dataset."""
        with self._open() as file:
            dataset = _open_dataset(self.path, file, self._name)
            for first in range(start, stop, rows):
                yield Chunk(dataset[first : min(stop, first + rows)])

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers."""
        with self._open() as file:
            dataset = _open_dataset(self.path, file, self._name)
            pieces = [dataset[rows[i : i + _TAKE]] for i in range(0, len(rows), _TAKE)]
        return np.concatenate(pieces) if pieces else np.empty((0, self.layout.n_features), self.layout.dtype)


def _resolved(path: str, file: Any, name: str) -> tuple[Any, str] | None:
    """Return the group in the file itself that holds a name, and the name's last part, or None.

    Soft links are followed here, part by part, as HDF5 itself would follow external links behind them.
    """
    import h5py

    parts, links = [part for part in name.split("/") if part not in ("", ".")], 0
    group = file
    while parts:
        part = parts.pop(0)
        if not isinstance(group, h5py.Group):
            return None
        link = group.get(part, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise FileError(
                f"{path}: {name!r} is a link to another file ({link.filename!r}), which nearfold does not "
                f"follow; name that file, or copy the dataset into this one"
            )
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _MAX_LINKS:
                raise FileError(f"{path}: {name!r} is a link that leads in a circle; name the dataset itself")
            target = [each for each in link.path.split("/") if each not in ("", ".")]
            if link.path.startswith("/"):
                group = file
            parts = target + parts
            continue
        if not parts:
            return group, part
        group = group[part]
    return None


def _open_dataset(path: str, file: Any, name: str, depth: int = 0) -> Any:
    """Return a dataset whose data lies entirely in the file itself.

    Raises
    ------
    FileError
        No dataset has that name, its data lies in other files, or HDF5 would have to load a library to
        decompress it.
    """
    import h5py

    found = _resolved(path, file, name)
    dataset = found[0][found[1]] if found is not None else None
    if not isinstance(dataset, h5py.Dataset):
        what = "is a group" if dataset is not None else "is not there"
        raise FileError(f"{path}: dataset {name!r} {what}; it has {listed(_datasets(file))}")
    plan = dataset.id.get_create_plist()
    if plan.get_external_count():
        raise FileError(
            f"{path}: the data of dataset {name!r} lies in other files (external storage), which nearfold "
            f"does not open; copy it into this file, by h5repack say"
        )
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        for i in range(plan.get_virtual_count()):
            source = plan.get_virtual_dsetname(i)
            if plan.get_virtual_filename(i) != "." or "%" in source or depth >= _MAX_LINKS:
                raise FileError(
                    f"{path}: dataset {name!r} is made of datasets of other files (virtual), which nearfold "
                    f"does not open; copy them into one, by h5repack say"
                )
            _open_dataset(path, file, source, depth + 1)
    for i in range(plan.get_nfilters()):
        number, _, _, title = plan.get_filter(i)
        if number not in _FILTERS:
            raise FileError(
                f"{path}: dataset {name!r} is packed by filter {number} "
                f"({bytes(title).decode(errors='replace')}), which is not HDF5's own; pack it by gzip or lzf"
            )
    return dataset


def _layout_of(path: str, name: str, dataset: Any) -> Layout:
    """Return a dataset's layout, or refuse it if it is no table of numbers or is larger than its data."""
    shape, dtype = dataset.shape, dataset.dtype
    if shape is None or dtype.kind == "O":
        what = "is empty" if shape is None else "holds texts or lists of differing lengths"
        raise FileError(f"{path}: dataset {name!r} {what}; save vectors as a table of rows and dimensions")
    if dtype.names is not None:
        raise FileError(
            f"{path}: dataset {name!r} is a table of records with the fields {listed(dtype.names)}; save the "
            f"vectors as a dataset of their own"
        )
    layout = check_layout(path, shape, dtype, f"dataset {name!r}")
    nbytes, stored = dataset.size * dtype.itemsize, dataset.id.get_storage_size()
    if dataset.is_virtual:
        stored = nbytes
    if nbytes > stored * (_MAX_SHRINK if dataset.chunks else 1):
        raise FileError(
            f"{path}: dataset {name!r} promises {nbytes} bytes and holds {stored}; "
            f"it is truncated or was never filled"
        )
    return layout._replace(name="vectors")


def _held_bytes(path: str, name: str, dataset: Any) -> int:
    """Return the bytes of the compressed pieces that hold one row, decompressed; refuse too many."""
    if dataset.chunks is None or not dataset.id.get_create_plist().get_nfilters():
        return 0
    rows, width = dataset.chunks
    across = -(-dataset.shape[1] // width)
    nbytes = int(rows * width * across * dataset.dtype.itemsize)
    if nbytes > HELD_BYTES:
        raise FileError(
            f"{path}: dataset {name!r} is packed in pieces of {rows} rows, which take {nbytes / 1e6:,.0f} MB "
            f"unpacked; pack fewer rows in one, by h5repack say"
        )
    return nbytes


def _datasets(file: Any) -> list[str]:
    """Return the names of the datasets in the file itself, with their groups, as in group/name."""
    import h5py

    names: list[str] = []

    def note(name: str, found: Any) -> bool | None:
        if isinstance(found, h5py.Dataset):
            names.append(name)
        return True if len(names) >= _MAX_NAMES else None

    file.visititems(note)
    return names


def _choose(path: str, file: Any, column: str | None) -> str:
    """Return the name of the dataset of vectors."""
    if column is not None:
        if _resolved(path, file, column) is None:
            raise FileError(f"{path}: has no dataset {column!r}; it has {listed(_datasets(file))}")
        return column
    if file.get(_BASE, getlink=True) is not None:
        return _BASE
    names = _datasets(file)
    # If there is nothing but links to other files, this refuses them by name.
    names = names or [name for name in file if _resolved(path, file, name) is not None]
    tables = [name for name in names if _is_table(_open_plain(file, name))]
    if len(tables) != 1:
        raise FileError(
            f"{path}: {'several' if tables else 'none'} of its datasets ({listed(tables or names)}) "
            f"{'are tables' if tables else 'is a table'} of vectors; name one with --column"
        )
    return tables[0]


def _open_plain(file: Any, name: str) -> Any:
    """Return a dataset, or None if it refers to other files, which HDF5 would open to tell its shape."""
    try:
        return _open_dataset("", file, name)
    except FileError:
        return None


def _is_table(dataset: Any) -> bool:
    return dataset is not None and len(dataset.shape or ()) == 2 and dataset.dtype.kind in "fiu"


def read(location: Location, column: str | None) -> Hdf5Source:
    """Open an HDF5 file; `column` names the dataset, and None stands for `train` or the only table."""
    return Hdf5Source(location, column)
