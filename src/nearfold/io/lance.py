"""The format Lance: a folder that is one table, with the vectors in a list column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nearfold._utils.arrays import Int64
from nearfold._utils.extras import import_extra
from nearfold.errors import FileError, NearfoldError
from nearfold.io.base import Chunk
from nearfold.io.lists import TableSource, find_vectors, first_line, matrix_of
from nearfold.io.location import Location

__all__ = ["FOLDER", "SUFFIXES", "read"]

# The suffix of such tables.
SUFFIXES = (".lance",)
# Such a table is a folder.
FOLDER = True


class LanceSource(TableSource):
    """The vector column of a Lance table and the columns beside it."""

    random_access = True

    def __init__(self, location: Location, column: str | None) -> None:
        lance = import_extra("lance", "lance", f"{location.name}: Lance")
        self.path = location.name
        with self._reading():
            self._dataset = lance.dataset(location.name if location.filesystem else location.path)
            schema = self._dataset.schema
            found = find_vectors(self.path, schema, column)
            super().__init__(self.path, schema, found, self._dataset.count_rows())

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except NearfoldError:
            raise
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            # Lance's core reports damage by errors of many kinds, also by panics, which are no Exceptions.
            raise FileError(f"{self.path}: truncated or not a Lance table ({first_line(error)})") from error

    def _first_lists(self) -> Iterator[pa.Array]:
        for batch in self._dataset.scanner(columns=[self.column.top], batch_size=64).to_batches():
            yield self._lists(batch, 0)

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield rows, one record batch after another."""
        columns = None if others else [self.column.top]
        with self._reading():
            scanner = self._dataset.scanner(
                columns=columns, offset=start, limit=stop - start, batch_size=rows, scan_in_order=True
            )
            first = start
            for batch in scanner.to_batches():
                yield from self._pieces(batch, rows, 0, len(batch), first)
                first += len(batch)

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers."""
        with self._reading():
            table = self._dataset.take(rows.tolist(), columns=[self.column.top]).combine_chunks()
            chunks = [
                matrix_of(self.path, self._lists(b, 0), self.layout.n_features, 0) for b in table.to_batches()
            ]
        return np.concatenate(chunks) if chunks else np.empty((0, self.layout.n_features), self.layout.dtype)


def read(location: Location, column: str | None) -> LanceSource:
    """Open a Lance table; `column` names the vectors, and None stands for the only list of numbers."""
    return LanceSource(location, column)
