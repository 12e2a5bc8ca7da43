"""NumPy's format .npz: named arrays in a zip archive; a small array of vectors is read into memory."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.files import cause, replacing
from nearfold.errors import FileError, NearfoldError
from nearfold.io.base import HELD_BYTES, Chunk, Layout, Source, listed
from nearfold.io.location import Location
from nearfold.io.npy import ArraySink, ArraySource, check_array, read_header

__all__ = ["SUFFIXES", "read", "write"]

# The suffix of such files.
SUFFIXES = (".npz",)


# The strongest compression of deflate.
_MAX_SHRINK = 1032

# The arrays that scipy.sparse.save_npz writes.
_SPARSE = {"format", "shape", "data"}


def read(location: Location, column: str | None) -> Source:
    """Open an .npz file; `column` names the array, and None stands for the only two-dimensional one."""
    path = location.name
    with _opened(location) as archive:
        name = _chosen(path, archive, column)
        with archive.open(f"{name}.npy") as member:
            shape, fortran_order, dtype = read_header(member)
        layout = check_array(path, shape, dtype, f"array {name!r}", name)
        if math.prod(shape) * dtype.itemsize > HELD_BYTES:
            if fortran_order and 1 not in shape:
                raise FileError(
                    f"{path}: array {name!r} is large and stored column by column; save it by np.save, in "
                    f"C order"
                )
            return PackedSource(location, layout)
        with archive.open(f"{name}.npy") as member:
            array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    return ArraySource(path, array, name)


def _chosen(path: str, archive: zipfile.ZipFile, column: str | None) -> str:
    """Return the name of the array to read, after a check that the archive holds what its header declares."""
    members = {
        info.filename.removesuffix(".npy"): info
        for info in archive.infolist()
        if info.filename.endswith(".npy")
    }
    if members.keys() >= _SPARSE:
        raise FileError(
            f"{path}: is a sparse matrix of scipy; nearfold needs dense vectors: save "
            f"scipy.sparse.load_npz(file).toarray() by np.save"
        )
    if not members and archive.namelist():
        raise FileError(
            f"{path}: is a zip archive without arrays of numpy ({listed(archive.namelist(), 3)}); if torch "
            f"made it, save tensor.float().cpu().numpy() by np.save"
        )
    if column is not None and column not in members:
        raise FileError(f"{path}: has no array {column!r}; it has {listed(members)}")
    headers = {}
    for name in members if column is None else [column]:
        with archive.open(members[name]) as member:
            headers[name] = read_header(member)
    if column is None:
        tables = [
            name for name, (shape, _, dtype) in headers.items() if len(shape) == 2 and dtype.kind in "fiu"
        ]
        if len(tables) != 1:
            if len(headers) == 1:
                ((only, (shape, _, dtype)),) = headers.items()
                check_array(path, shape, dtype, f"array {only!r}")
            raise FileError(
                f"{path}: {'several' if tables else 'none'} of its arrays ({listed(tables or members)}) "
                f"{'are tables' if tables else 'is a table'} of vectors; name one with --column"
            )
        column = tables[0]
    info, (shape, _, dtype) = members[column], headers[column]
    check_array(path, shape, dtype, f"array {column!r}")
    promised = math.prod(shape) * dtype.itemsize
    if promised > min(info.file_size, _MAX_SHRINK * info.compress_size):
        raise FileError(
            f"{path}: array {column!r} promises {promised} bytes, the archive holds {info.compress_size} "
            f"compressed ones; it is truncated"
        )
    return column


class PackedSource(Source):
    """Vectors of an archive that are too large for memory, and are decompressed as they are read."""

    def __init__(self, location: Location, layout: Layout) -> None:
        self.path, self.layout = location.name, layout
        self._location = location

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield rows; all rows before them are decompressed too."""
        width, dtype = self.layout.n_features, self.layout.dtype
        with _opened(self._location) as archive, archive.open(f"{self.layout.name}.npy") as member:
            read_header(member)
            first = 0
            while first < stop:
                count = min(rows, stop - first, start - first if first < start else stop)
                content = bytearray()
                while len(content) < count * width * dtype.itemsize:
                    part = member.read(count * width * dtype.itemsize - len(content))
                    if not part:
                        raise FileError(f"{self.path}: truncated: its array ends early")
                    content += part
                if first >= start:
                    yield Chunk(np.frombuffer(content, dtype).reshape(count, width))
                first += count


@contextmanager
def _opened(location: Location) -> Iterator[zipfile.ZipFile]:
    """Open an archive; errors of its content become a `FileError`."""
    path = location.name
    try:
        # The file is opened here, as numpy would leave it open if the archive is broken.
        with location.open() as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (NearfoldError, MemoryError):
        raise
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}") from error
    except Exception as error:
        # The zip reader, zlib and numpy's header parser each raise errors of their own types.
        raise FileError(f"{path}: truncated or not an .npz file of numbers ({error})") from error


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[ArraySink]:
    """Open an .npz file for writing one array, uncompressed."""
    with (
        replacing(path) as file,
        zipfile.ZipFile(file, "w") as archive,
        # The date in the archive is fixed, so that the same vectors give the same bytes.
        archive.open(zipfile.ZipInfo(f"{layout.name}.npy"), "w", force_zip64=True) as member,
    ):
        yield ArraySink(member, layout)
