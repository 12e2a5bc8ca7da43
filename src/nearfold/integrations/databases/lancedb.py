"""LanceDB: a folded column in the same table, filled a fragment at a time.

Adding a column writes new files beside those of the other columns, which stay as they are. The column of a
fragment is there whole or not at all. Vectors that have changed are found by folding all of them again: any
comparison has to read them, and a column of digests would be one more in a table that is somebody else's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nearfold._utils.arrays import Float32, Float64, Metric, chunk_rows
from nearfold._utils.extras import import_extra
from nearfold.errors import DatabaseError, ParameterError
from nearfold.errors.credentials import redacted
from nearfold.folds.fold import Fold
from nearfold.integrations.databases.base import (
    Advance,
    Filled,
    FoldRows,
    Note,
    Sample,
    Store,
    Survey,
    chosen_column,
    sound_matrix,
    told_panic,
)
from nearfold.io.lists import first_line, fixed_lists

__all__ = ["NAMED", "SCHEMES", "LanceStore", "open_store"]

SCHEMES = ("lancedb",)
NAMED = "lancedb:FOLDER"

# Rows drawn at a time, at least, to compare their folds.
_DRAWN = 256

_DISTANCES: dict[Metric, str] = {"cosine": "cosine", "l2": "l2", "ip": "dot"}
# Below it a scan is as fast as an index.
_INDEXED_ROWS = 4096
_BATCH_BYTES = 16 << 20
# How far a fold may be from one that is computed again, as a share of its norm: what rounding can do.
_ROUNDING = {"float16": 6e-4, "float32": 1e-5}


def open_store(
    where: str, fold: Fold, *, table: str, column: str | None, key: str | None, name: str | None, dtype: str
) -> LanceStore:
    """Open a table.

    Parameters
    ----------
    where : str
        The folder or URL of the database.
    fold : Fold
        The fold whose results are stored.
    table, column, key, name, dtype
        As for `stores.open_store`.

    Returns
    -------
    LanceStore

    Raises
    ------
    DatabaseError
        The database, table or column is missing or unfit.
    MissingExtraError
        lancedb or pylance is not installed.
    """
    lancedb = import_extra("lancedb", "lancedb", "migrating in LanceDB")
    import_extra("lance", "lancedb", "migrating in LanceDB")
    if key is not None:
        raise DatabaseError("LanceDB tells rows apart by itself; leave --id out")
    if "://" not in where and not Path(where).is_dir():
        raise DatabaseError(f"{where}: no such folder; give that of a LanceDB database")
    try:
        opened = lancedb.connect(where).open_table(table)
    except BaseException as error:
        if not isinstance(error, (ValueError, OSError, RuntimeError)):
            raise told_panic(error, redacted(where)) or error from error
        said = redacted(f"{where}: can't open the table {table}: {first_line(error)}")
        raise DatabaseError(said) from None
    kinds = {field.name: field.type for field in opened.schema}
    found = [each for each, kind in kinds.items() if _fits(kind)]
    # Folded columns hold a note.
    full = [each for each in found if b"nearfold" not in (opened.schema.field(each).metadata or {})]
    unfit = {each: _unfit(kind) for each, kind in kinds.items() if each not in found and _lists(kind)}
    column = chosen_column(full, column, table, unfit)
    named = f"{column}_folded" if name is None else name
    for each in (column, named):
        _check_name(each)
    other = next((each for each in kinds if each != named and each.lower() == named.lower()), None)
    if other is not None:
        raise DatabaseError(
            f"{table}: has a column {other}, whose name differs from {named} in case only; choose "
            "another --name"
        )
    return LanceStore(opened, where, table, fold, column, named, dtype)


def _lists(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _fits(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type))


def _unfit(kind: pa.DataType) -> str:
    if _lists(kind.value_type):
        return f"{kind}: several vectors a row (multivectors), of which nearfold folds none"
    if pa.types.is_floating(kind.value_type):
        return (
            f"{kind}: lists of any length, which LanceDB can't search either; make the table anew with "
            f"fixed-size lists, pyarrow.list_(pyarrow.float32(), WIDTH)"
        )
    return f"{kind}: not floats; nearfold folds float16, float32 and float64"


def _check_name(name: str) -> None:
    """Refuse names that Lance accepts for a column and then can't read."""
    if not name or "`" in name or "." in name or "\0" in name:
        raise ParameterError(
            f"name={name!r}: Lance can't read a column whose name is empty or holds a backtick or a dot; "
            "choose another one"
        )


class LanceStore(Store):
    """A folded column beside a full one, in LanceDB.

    Parameters
    ----------
    table : lancedb.table.Table
        The open table.
    where, name_of_table : str
        The database and the name of its table.
    fold : Fold
        The fold whose results are stored.
    column : str
        The column of the full vectors.
    name : str
        The name of the folded column.
    dtype : {"float16", "float32"}
        The type of the folded vectors.
    """

    failures = (RuntimeError, OSError, ValueError, pa.ArrowException)

    def __init__(
        self, table: Any, where: str, name_of_table: str, fold: Fold, column: str, name: str, dtype: str
    ) -> None:
        super().__init__(fold, dtype)
        self._table = table
        # A folder's name is printed as it is, for the query has to find it.
        self._database, self._named = redacted(where) if "://" in where else where, name_of_table
        self._where = f"{self._database}/{name_of_table}"
        self.source_mark, self.target_mark = column, name
        self._emptied = 0
        self._column, self._name = column, name
        self._field = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), fold.n_components)
        self._has = f"{_quoted(column)} IS NOT NULL"
        self._lacks = f"{_quoted(name)} IS NULL AND {self._has}"

    def close(self) -> None:
        """Do nothing: tables hold nothing open."""

    def survey(self) -> Survey:
        """Look at the schema, and count."""
        rows = self._rows()
        note = self._found(self._table.schema)
        missing = rows if note is None else self._table.count_rows(self._lacks)
        width = self._table.schema.field(self._column).type.list_size
        made = f"column {self._name} ({self._field})"
        source, target = f"{self._where}.{self._column}", f"{self._where}.{self._name}"
        return Survey(source, target, rows, rows - missing, width, note, [made])

    def _found(self, schema: pa.Schema) -> Note | None:
        """Return the note of the folded column, if there is one; refuse any other column of its name."""
        if self._name not in schema.names:
            return None
        where = f"{self._where}.{self._name}"
        field = schema.field(self._name)
        note = Note.loads((field.metadata or {}).get(b"nearfold", b"").decode(errors="replace"), where)
        if field.type != pa.list_(pa.from_numpy_dtype(np.dtype(note.dtype)), note.n_components):
            raise DatabaseError(f"{where}: is another column than nearfold made; choose another --name")
        return note

    def prepare(self, note: Note) -> None:
        """Add the column, empty: that writes no row."""
        self._note = note
        self._table.checkout_latest()
        if self._found(self._table.schema) is None:
            field = pa.field(self._name, self._field, metadata={"nearfold": note.dumps()})
            self._table.add_columns(field)
        else:
            self.mark(note)

    def fill(self, fold: FoldRows, advance: Advance) -> Filled:
        """Write a fragment at a time; its folded vectors are held in memory meanwhile."""
        lance = import_extra("lance", "lancedb", "migrating in LanceDB")
        total = Filled(0, 0)
        for number in [fragment.fragment_id for fragment in self._dataset().get_fragments()]:
            # Opened anew, for each write makes a new version; what is read here and written below is of one.
            dataset = self._claimed()
            fragment = dataset.get_fragment(number)
            if fragment is None:
                continue
            batches, done = self._changed(dataset, fragment, fold, advance)
            if not batches:
                continue
            reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
            changed, fields = fragment.update_columns(reader)
            update = lance.LanceOperation.Update(
                updated_fragments=[changed], fields_modified=fields, update_mode="rewrite_columns"
            )
            lance.LanceDataset.commit(dataset.uri, update, read_version=dataset.version)
            total = total.plus(done)
        self._table.checkout_latest()
        return total

    def _changed(
        self, dataset: Any, fragment: Any, fold: FoldRows, advance: Advance
    ) -> tuple[list[pa.RecordBatch], Filled]:
        """Return new folds by row id: of rows that have none, another one, or no vector any more."""
        scanner = dataset.scanner(
            fragments=[fragment],
            columns=[self._column, self._name],
            filter=f"{self._has} OR {_quoted(self._name)} IS NOT NULL",
            with_row_id=True,
            batch_size=chunk_rows(self._fold.n_features, _BATCH_BYTES),
        )
        kept, written, refreshed = [], 0, 0
        for batch in scanner.to_batches():
            has = batch[self._column].is_valid().to_numpy(zero_copy_only=False)
            known = batch[self._name].is_valid().to_numpy(zero_copy_only=False)
            full = batch.filter(pa.array(has))
            folded = fold(self._matrix(full[self._column], full["_rowid"].to_pylist()))
            stale = known[has] & self._differ(full[self._name], folded)
            new = np.flatnonzero(~known[has] | stale)
            gone = np.flatnonzero(~has & known)
            for ids, lists in (
                (full["_rowid"].take(pa.array(new)), fixed_lists(folded[new])),
                (batch["_rowid"].take(pa.array(gone)), pa.nulls(len(gone), self._field)),
            ):
                if len(ids):
                    columns = [ids, lists.cast(self._field)]
                    kept.append(pa.RecordBatch.from_arrays(columns, ["_rowid", self._name]))
            first = int((~known[has]).sum())
            advance(first)
            written, refreshed = written + first, refreshed + int(stale.sum())
            self._emptied += len(gone)
        return kept, Filled(written, refreshed)

    def _differ(self, stored: pa.Array, folded: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which stored folds are others than these, by more than rounding does."""
        known = stored.fill_null(pa.scalar([0.0] * self.n_components, self._field))
        first = known.flatten().to_numpy(zero_copy_only=False).reshape(folded.shape).astype(np.float32)
        second = folded.astype(np.float32)
        most = _ROUNDING[self.dtype] * np.linalg.norm(second, axis=1)
        differ: npt.NDArray[np.bool_] = ~(np.abs(first - second).max(axis=1, initial=0) <= most)
        return differ

    def _claimed(self) -> Any:
        """Return the newest version, after the folded column was seen to be nearfold's own in it."""
        dataset = self._dataset()
        found = self._found(dataset.schema)
        where = f"{self._where}.{self._name}"
        self._check_ours(found, where)
        return dataset

    def _dataset(self) -> Any:
        self._table.checkout_latest()
        return self._table.to_lance()

    def finish(self, *, index: bool) -> int:
        """Build an IVF index, or add new rows to the one that is there."""
        removed, self._emptied = self._emptied, 0
        if not index or self._rows() < _INDEXED_ROWS:
            return removed
        dataset = self._claimed()
        own = [entry.name for entry in self._table.list_indices() if entry.columns == [self._name]]
        if own:
            # The table's own `optimize` would remove its versions of more than a week ago as well.
            dataset.optimize.optimize_indices(index_names=own)
            self._table.checkout_latest()
            return removed
        lancedb = import_extra("lancedb", "lancedb", "migrating in LanceDB")
        how = lancedb.index.IvfFlat(distance_type=_DISTANCES[self.metric], num_partitions=self._partitions())
        self._table.create_index(self._name, config=how)
        return removed

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
        order = np.random.default_rng(seed).permutation(dataset.count_rows())
        found: list[pa.Table] = []
        # Rows without a vector are drawn like the others, and others again in their place.
        for start in range(0, len(order), step := max(count, _DRAWN)):
            places = np.sort(order[start : start + step]).tolist()
            rows = dataset.take(places, columns=[self._column, self._name])
            found.append(rows.filter(pa.compute.is_valid(rows[self._column])))
            if sum(map(len, found)) >= count:
                break
        rows = pa.concat_tables(found).slice(0, count)
        places = range(len(rows))
        return Sample(self._matrix(rows[self._column], places), self._matrix(rows[self._name], places))

    def exact(self, vector: Float32, k: int) -> Float64:
        """Search past the index."""
        found = self._nearest(vector, self._column).bypass_vector_index().limit(k).to_arrow()
        return np.asarray(found["_distance"], np.float64)

    def two_stage(self, vector: Float32, folded: Float32, k: int, n_candidates: int) -> Float64:
        """Search as `recipe` does."""
        found = self._nearest(folded, self._name).nprobes(self._probes()).limit(n_candidates).to_arrow()
        full = self._matrix(found[self._column], range(n_candidates)).astype(np.float64)
        return np.sort(_distances(full, vector.astype(np.float64), self.metric))[:k]

    def _nearest(self, vector: Float32, column: str) -> Any:
        search = self._table.search(vector, vector_column_name=column)
        return search.distance_type(_DISTANCES[self.metric]).select([self._column, "_distance"])

    def _matrix(self, column: Any, ids: Sequence[int]) -> Float32:
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        return sound_matrix(self._where, lists, column.type.list_size, ids)

    def _probes(self) -> int:
        partitions = self._partitions()
        return min(partitions, max(20, partitions // 8))

    def mark(self, note: Note) -> None:
        """Replace the column's metadata."""
        dataset = self._claimed()
        with warnings.catch_warnings():
            # Its successor is younger than the oldest version that we take.
            warnings.simplefilter("ignore", DeprecationWarning)
            dataset.replace_field_metadata(self._name, {"nearfold": note.dumps()})
        self._table.checkout_latest()

    def recipe(self, k: int, n_candidates: int) -> str:
        """Return Python."""
        scores = {
            "cosine": "full @ query / np.linalg.norm(full, axis=1)",
            "l2": "-np.linalg.norm(full - query, axis=1)",
            "ip": "full @ query",
        }[self.metric]
        return (
            f"fold = nearfold.Encoder.load(...)  # the encoder given to migrate\n"
            f"table = lancedb.connect({self._database!r}).open_table({self._named!r})\n"
            f"search = table.search(fold.transform(query[None])[0], vector_column_name={self._name!r})\n"
            f"search = search.distance_type({_DISTANCES[self.metric]!r}).nprobes({self._probes()})\n"
            f"found = search.limit({n_candidates}).to_pandas()\n"
            f"full = np.stack(found[{self._column!r}])\n"
            f"best = found.iloc[np.argsort(-({scores}))[:{k}]]\n"
            f"# Rows that come later have no fold; run migrate again to fold them.\n"
        )


def _quoted(name: str) -> str:
    """Return a column's name as the filters of Lance take it."""
    return f"`{name}`"


def _distances(vectors: Float64, query: Float64, metric: Metric) -> Float64:
    """Return what Lance calls the distance of each row to a query, shape (n,)."""
    if metric == "l2":
        squared: Float64 = ((vectors - query) ** 2).sum(axis=1)
        return squared
    scores = vectors @ query
    if metric == "cosine":
        scores /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return 1 - scores
