"""Lance: a folder that is one table, with the vectors in a list column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError, NearfoldError
from nearfold.extras import import_extra
from nearfold.io.base import Chunk, Int64, Source
from nearfold.io.lists import chunk_of, first_line, is_fixed, layout_of, vector_column
from nearfold.io.location import Location

__all__ = ["FOLDER", "SUFFIXES", "read"]

# Endings of such files.
SUFFIXES = (".lance",)
# Such a table is a folder.
FOLDER = True


class LanceSource(Source):
    """The vector column of a Lance table and the columns beside it."""

    random_access = True

    def __init__(self, location: Location, column: str | None) -> None:
        self.path = location.name
        lance = import_extra("lance", "lance", f"{self.path}: Lance")
        with self._reading():
            self._dataset = lance.dataset(location.name if location.filesystem else location.path)
            schema = self._dataset.schema
            name = vector_column(self.path, schema, column)
            kind = schema.field(name).type
            rows = self._dataset.count_rows()
            width = kind.list_size if is_fixed(kind) else self._first_width(name)
        self.layout = layout_of(self.path, schema, name, rows, width)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except NearfoldError:
            raise
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            # Its core reports damage as errors of many kinds, panics outside Exception among them.
            raise FileError(f"{self.path}: truncated or not a Lance table ({first_line(error)})") from error

    def _first_width(self, name: str) -> int:
        lists = self._dataset.head(1, columns=[name]).column(0)
        return len(lists[0]) if len(lists) and lists[0].is_valid else 0

    def chunks(
        self, rows: int, start: int = 0, stop: int | None = None, *, others: bool = True
    ) -> Iterator[Chunk]:
        """Yield rows, one record batch after another."""
        stop = self.layout.rows if stop is None else stop
        columns = None if others else [self.layout.name]
        with self._reading():
            scanner = self._dataset.scanner(
                columns=columns, offset=start, limit=stop - start, batch_size=rows, scan_in_order=True
            )
            first = start
            for batch in scanner.to_batches():
                yield chunk_of(self.path, batch, self.layout, first)
                first += len(batch)

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows of these numbers."""
        with self._reading():
            table = self._dataset.take(rows.tolist(), columns=[self.layout.name]).combine_chunks()
            chunks = [chunk_of(self.path, b, self.layout, 0).vectors for b in table.to_batches()]
        return np.concatenate(chunks) if chunks else np.empty((0, self.layout.n_features), self.layout.dtype)


def read(location: Location, column: str | None) -> LanceSource:
    """Open a Lance table; `column` names the vectors, None takes the only list of numbers."""
    return LanceSource(location, column)
