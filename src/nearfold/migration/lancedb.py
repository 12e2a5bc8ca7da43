"""LanceDB: a folded column in the same table, a fragment at a time.

Adding a column writes new files beside those of the others, which stay as they are; a fragment's column is
there whole or not at all.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nearfold.arrays import Float32, Metric, chunk_rows
from nearfold.errors import DatabaseError
from nearfold.extras import import_extra
from nearfold.fold import Fold
from nearfold.io.lists import fixed_lists, matrix_of
from nearfold.migration.base import Advance, FoldRows, Note, Sample, Store, Survey, chosen_column

__all__ = ["NAMED", "SCHEMES", "LanceStore", "open_store"]

SCHEMES = ("lancedb",)
NAMED = "lancedb:FOLDER"

_DISTANCES: dict[Metric, str] = {"cosine": "cosine", "l2": "l2", "ip": "dot"}
# Below it a scan is as fast as an index.
_INDEXED_ROWS = 4096
_BATCH_BYTES = 16 << 20


def open_store(
    where: str, fold: Fold, *, table: str, column: str | None, key: str | None, name: str | None, dtype: str
) -> LanceStore:
    """Open a table; `where` is the folder or URL of the database.

    Raises
    ------
    DatabaseError
        The database, table or column is missing or unfit.
    """
    lancedb = import_extra("lancedb", "lancedb", "migrating in LanceDB")
    import_extra("lance", "lancedb", "migrating in LanceDB")
    if key is not None:
        raise DatabaseError("LanceDB tells rows apart by itself; leave --id out")
    if "://" not in where and not Path(where).is_dir():
        raise DatabaseError(f"{where}: no such folder; give that of a LanceDB database")
    try:
        opened = lancedb.connect(where).open_table(table)
    except (ValueError, OSError, RuntimeError) as error:
        raise DatabaseError(f"{where}: can't open the table {table}: {error}") from error
    found = {
        field.name: field.type
        for field in opened.schema
        if pa.types.is_fixed_size_list(field.type) and pa.types.is_floating(field.type.value_type)
    }
    # Folded columns hold a note.
    full = [each for each in found if b"nearfold" not in (opened.schema.field(each).metadata or {})]
    column = chosen_column(full, column, table)
    return LanceStore(opened, f"{where}/{table}", fold, column, name or f"{column}_folded", dtype)


class LanceStore(Store):
    """A folded column beside a full one.

    Parameters
    ----------
    table
        Open.
    where
        Names the table in messages.
    fold
        Whose results go in.
    column
        Of full vectors.
    name
        Of the folded column.
    dtype
        "float16" or "float32".
    """

    failures = (RuntimeError, OSError, ValueError, pa.ArrowException)

    def __init__(self, table: Any, where: str, fold: Fold, column: str, name: str, dtype: str) -> None:
        super().__init__(fold, dtype)
        self._table = table
        self._where = where
        self._column, self._name = column, name
        self._field = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), fold.n_components)
        self._has = f"{_quoted(column)} IS NOT NULL"
        self._lacks = f"{_quoted(name)} IS NULL AND {self._has}"

    def close(self) -> None:
        """Do nothing: tables hold nothing open."""

    @property
    def _there(self) -> bool:
        return self._name in self._table.schema.names

    def survey(self) -> Survey:
        """Look at the schema, and count."""
        rows = self._rows()
        target = f"{self._where}.{self._name}"
        note, missing = None, rows
        if self._there:
            note = self._note(target)
            missing = self._table.count_rows(self._lacks)
        width = self._table.schema.field(self._column).type.list_size
        made = f"column {self._name} ({self._field})"
        return Survey(f"{self._where}.{self._column}", target, rows, rows - missing, width, note, [made])

    def _note(self, target: str) -> Note:
        metadata = self._table.schema.field(self._name).metadata or {}
        return Note.loads(metadata.get(b"nearfold", b"").decode(), target)

    def prepare(self, note: Note) -> None:
        """Add the column, empty: that writes no row."""
        if not self._there:
            field = pa.field(self._name, self._field, metadata={"nearfold": note.dumps()})
            self._table.add_columns(field)

    def fill(self, fold: FoldRows, advance: Advance) -> int:
        """Write a fragment at a time; its folded vectors are held in memory meanwhile."""
        lance = import_extra("lance", "lancedb", "migrating in LanceDB")
        done = 0
        for number in [fragment.fragment_id for fragment in self._dataset().get_fragments()]:
            # Opened anew, for each write makes a new version.
            dataset = self._dataset()
            fragment = dataset.get_fragment(number)
            if fragment is None or not fragment.count_rows(self._lacks):
                continue
            scanner = dataset.scanner(
                fragments=[fragment],
                columns=[self._column],
                filter=self._lacks,
                with_row_id=True,
                batch_size=chunk_rows(self._fold.n_features, _BATCH_BYTES),
            )
            batches = []
            for batch in scanner.to_batches():
                folded = fixed_lists(fold(self._matrix(batch[self._column])))
                batches.append(pa.RecordBatch.from_arrays([batch["_rowid"], folded], ["_rowid", self._name]))
                advance(len(batch))
            reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
            changed, fields = fragment.update_columns(reader)
            update = lance.LanceOperation.Update(
                updated_fragments=[changed], fields_modified=fields, update_mode="rewrite_columns"
            )
            lance.LanceDataset.commit(dataset.uri, update, read_version=dataset.version)
            done += sum(map(len, batches))
        self._table.checkout_latest()
        return done

    def _dataset(self) -> Any:
        self._table.checkout_latest()
        return self._table.to_lance()

    def finish(self, *, index: bool) -> None:
        """Build an IVF index, or add new rows to the one that is there."""
        if not index or self._rows() < _INDEXED_ROWS:
            return
        if any(self._name in entry.columns for entry in self._table.list_indices()):
            self._table.optimize()
            return
        lancedb = import_extra("lancedb", "lancedb", "migrating in LanceDB")
        how = lancedb.index.IvfFlat(distance_type=_DISTANCES[self.metric], num_partitions=self._partitions())
        self._table.create_index(self._name, config=how)

    def _partitions(self) -> int:
        return max(1, math.isqrt(self._rows()))

    def _rows(self) -> int:
        return int(self._table.count_rows(self._has))

    def gaps(self) -> tuple[int, int]:
        """Count: a column can't be doubled."""
        extra = self._table.count_rows(f"{_quoted(self._name)} IS NOT NULL AND NOT ({self._has})")
        return self._table.count_rows(self._lacks), extra

    def sample(self, count: int, seed: int) -> Sample:
        """Return rows at random places."""
        dataset = self._dataset()
        n = dataset.count_rows()
        places = np.sort(np.random.default_rng(seed).choice(n, min(n, count), replace=False))
        rows = dataset.take(places.tolist(), columns=[self._column, self._name])
        rows = rows.filter(pa.compute.is_valid(rows[self._column]))
        return Sample(self._matrix(rows[self._column]), self._matrix(rows[self._name]))

    def exact(self, vector: Float32, k: int) -> npt.NDArray[np.float64]:
        """Search past the index."""
        found = self._nearest(vector, self._column).bypass_vector_index().limit(k).to_arrow()
        return np.asarray(found["_distance"], np.float64)

    def two_stage(self, vector: Float32, folded: Float32, k: int, depth: int) -> npt.NDArray[np.float64]:
        """Search as `recipe` does."""
        found = self._nearest(folded, self._name).nprobes(self._probes()).limit(depth).to_arrow()
        full = self._matrix(found[self._column]).astype(np.float64)
        return np.sort(_distances(full, vector.astype(np.float64), self.metric))[:k]

    def _nearest(self, vector: Float32, column: str) -> Any:
        search = self._table.search(vector, vector_column_name=column)
        return search.distance_type(_DISTANCES[self.metric]).select([self._column, "_distance"])

    def _matrix(self, column: Any) -> Float32:
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        return matrix_of(self._where, lists, column.type.list_size, 0).astype(np.float32)

    def _probes(self) -> int:
        partitions = self._partitions()
        return min(partitions, max(20, partitions // 8))

    def mark(self, note: Note) -> None:
        """Replace the column's metadata."""
        dataset = self._dataset()
        with warnings.catch_warnings():
            # Its successor is younger than the oldest version that we take.
            warnings.simplefilter("ignore", DeprecationWarning)
            dataset.replace_field_metadata(self._name, {"nearfold": note.dumps()})
        self._table.checkout_latest()

    def recipe(self, k: int, depth: int) -> str:
        """Return Python."""
        scores = {
            "cosine": "full @ query / np.linalg.norm(full, axis=1)",
            "l2": "-np.linalg.norm(full - query, axis=1)",
            "ip": "full @ query",
        }[self.metric]
        database, _, table = self._where.rpartition("/")
        return (
            f"fold = nearfold.Encoder.load(...)  # the encoder given to migrate\n"
            f"table = lancedb.connect({database!r}).open_table({table!r})\n"
            f"search = table.search(fold.transform(query[None])[0], vector_column_name={self._name!r})\n"
            f"search = search.distance_type({_DISTANCES[self.metric]!r}).nprobes({self._probes()})\n"
            f"found = search.limit({depth}).to_pandas()\n"
            f"full = np.stack(found[{self._column!r}])\n"
            f"best = found.iloc[np.argsort(-({scores}))[:{k}]]\n"
            f"# Rows that come later have no fold; run migrate again to fold them.\n"
        )


def _quoted(name: str) -> str:
    """Return a column's name as the filters of Lance take it."""
    return f"`{name}`"


def _distances(
    vectors: npt.NDArray[np.float64], query: npt.NDArray[np.float64], metric: Metric
) -> npt.NDArray[np.float64]:
    """Return what Lance calls the distance of each row to a query."""
    if metric == "l2":
        squared: npt.NDArray[np.float64] = ((vectors - query) ** 2).sum(axis=1)
        return squared
    scores = vectors @ query
    if metric == "cosine":
        scores /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return 1 - scores
