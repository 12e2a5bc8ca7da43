"""Qdrant, by its edge engine: a shard of folded vectors beside the shard of full ones, under the same ids.

Named vectors can't be added to a shard that is there, so folded ones get a shard of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric, chunk_rows
from nearfold.errors import DatabaseError
from nearfold.extras import import_extra
from nearfold.files import new_folder, replacing
from nearfold.fold import Fold
from nearfold.migration.base import Advance, FoldRows, Note, Sample, Store, Survey, chosen_column

__all__ = ["NAMED", "SCHEMES", "QdrantStore", "open_store"]

SCHEMES = ("qdrant",)
NAMED = "qdrant:FOLDER"

_DISTANCES: dict[Metric, str] = {"cosine": "Cosine", "l2": "Euclid", "ip": "Dot"}
_CONFIG, _NOTE = "edge_config.json", "nearfold.json"
_BATCH_BYTES = 8 << 20
# Ids looked at in one call.
_PAGE = 10_000


def open_store(
    where: str, fold: Fold, *, table: str, column: str | None, key: str | None, name: str | None, dtype: str
) -> QdrantStore:
    """Open a shard; `where` is its folder, or with `table` the folder above it.

    Raises
    ------
    DatabaseError
        The shard or the named vector is missing or unfit, or another process has the shard open.
    """
    qdrant = import_extra("qdrant_edge", "qdrant", "migrating in Qdrant")
    if key is not None:
        raise DatabaseError("Qdrant tells points apart by itself; leave --id out")
    folder = Path(where) / table
    try:
        config = json.loads((folder / _CONFIG).read_text())
        vectors = {vector: (entry["size"], entry["distance"]) for vector, entry in config["vectors"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"{folder}: is no shard of Qdrant's edge engine ({error})") from error
    column = chosen_column(list(vectors), column, str(folder))
    width, distance = vectors[column]
    if distance != _DISTANCES[fold.metric]:
        raise DatabaseError(
            f"{folder}: is searched by {distance}, the encoder was learned for {fold.metric}; fit one for it"
        )
    target = folder.with_name(name or f"{folder.name}-folded")
    try:
        shard = qdrant.EdgeShard.load(str(folder))
    except Exception as error:
        raise DatabaseError(f"{folder}: can't be opened: {error}") from error
    return QdrantStore(shard, folder, fold, column, width, target, dtype)


class QdrantStore(Store):
    """A shard of folded vectors beside a shard of full ones.

    Parameters
    ----------
    shard
        Of full vectors, open.
    folder
        Where that is.
    fold
        Whose results go in.
    column
        The name of the full vector; "" for the only one.
    width
        Its dimensions.
    target
        The folder of the new shard.
    dtype
        "float16" or "float32".
    """

    # The engine raises nothing more special.
    failures = (Exception,)

    def __init__(
        self, shard: Any, folder: Path, fold: Fold, column: str, width: int, target: Path, dtype: str
    ) -> None:
        super().__init__(fold, dtype)
        self._qdrant = import_extra("qdrant_edge", "qdrant", "migrating in Qdrant")
        self._shard, self._folder = shard, folder
        self._column, self._width, self._target = column, width, target
        self._beside: Any = None

    def close(self) -> None:
        """Write what is pending, and give both shards back."""
        for shard in (self._shard, self._beside):
            if shard is not None:
                shard.close()

    def _open(self) -> Any:
        if self._beside is None:
            self._beside = self._qdrant.EdgeShard.load(str(self._target))
        return self._beside

    def _count(self) -> int:
        wanted = self._qdrant.Filter(must=[self._qdrant.HasVectorCondition(self._column)])
        counted = self._shard.count(self._qdrant.CountRequest(filter=wanted, exact=True))
        return int(counted)

    def survey(self) -> Survey:
        """Look at both folders, and count."""
        note, folded = None, 0
        if self._target.exists():
            path = self._target / _NOTE
            note = Note.loads(path.read_text() if path.is_file() else None, str(self._target))
            folded = int(self._open().count(self._qdrant.CountRequest(exact=True)))
        made = f"shard {self._target} ({_DISTANCES[self.metric]}, {self.n_components} of {self.dtype})"
        source = f"{self._folder}" + (f" ({self._column})" if self._column else "")
        return Survey(source, str(self._target), self._count(), folded, self._width, note, [made])

    def prepare(self, note: Note) -> None:
        """Make the shard, whole or not at all."""
        if self._target.exists():
            return
        kind = getattr(self._qdrant.VectorStorageDatatype, self.dtype.capitalize())
        distance = getattr(self._qdrant.Distance, _DISTANCES[self.metric])
        vector = self._qdrant.EdgeVectorParams(self.n_components, distance, datatype=kind)
        with new_folder(self._target) as beside:
            self._qdrant.EdgeShard.create(str(beside), self._qdrant.EdgeConfig(vectors=vector)).close()
            (beside / _NOTE).write_text(note.dumps())

    def fill(self, fold: FoldRows, advance: Advance) -> int:
        """Upsert by id, which can't double a point, and flush after each batch."""
        beside, operation = self._open(), self._qdrant.UpdateOperation
        done = 0
        for ids in self._missing(chunk_rows(self._width, _BATCH_BYTES)):
            records = self._shard.retrieve(ids, with_payload=False, with_vector=True)
            full = [self._vector(record) for record in records]
            with_vector = [place for place, vector in enumerate(full) if vector is not None]
            if not with_vector:
                continue
            folded = fold(np.array([full[place] for place in with_vector], np.float32))
            points = [
                self._qdrant.Point(records[place].id, row.tolist())
                for place, row in zip(with_vector, folded.astype(np.float32), strict=True)
            ]
            beside.update(operation.upsert_points(points))
            beside.flush()
            advance(len(points))
            done += len(points)
        return done

    def _vector(self, record: Any) -> Any:
        vector = record.vector
        return vector.get(self._column) if isinstance(vector, dict) else vector

    def _ids(self, shard: Any, wanted: Any = None) -> Iterator[list[Any]]:
        offset = None
        while True:
            records, offset = shard.scroll(
                self._qdrant.ScrollRequest(limit=_PAGE, offset=offset, filter=wanted, with_payload=False)
            )
            yield [record.id for record in records]
            if offset is None:
                return

    def _missing(self, count: int) -> Iterator[list[Any]]:
        """Yield ids of full vectors without a fold, at most so many at a time."""
        wanted = self._qdrant.Filter(must=[self._qdrant.HasVectorCondition(self._column)])
        for ids in self._ids(self._shard, wanted):
            there = {
                record.id for record in self._open().retrieve(ids, with_payload=False, with_vector=False)
            }
            missing = [each for each in ids if each not in there]
            for first in range(0, len(missing), count):
                yield missing[first : first + count]

    def _orphans(self) -> Iterator[list[Any]]:
        """Yield ids of folds without a full vector."""
        for ids in self._ids(self._open()):
            records = self._shard.retrieve(ids, with_payload=False, with_vector=True)
            there = {record.id for record in records if self._vector(record) is not None}
            yield [each for each in ids if each not in there]

    def finish(self, *, index: bool) -> None:
        """Remove orphans; let the engine build its indexes."""
        for ids in self._orphans():
            if ids:
                self._open().update(self._qdrant.UpdateOperation.delete_points(ids))
        self._open().flush()
        if index:
            self._open().optimize()

    def gaps(self) -> tuple[int, int]:
        """Count ids: a point can't be doubled."""
        return sum(map(len, self._missing(_PAGE))), sum(map(len, self._orphans()))

    def sample(self, count: int, seed: int) -> Sample:
        """Return points drawn from all ids."""
        ids = [each for page in self._ids(self._open()) for each in page]
        chosen = np.random.default_rng(seed).choice(len(ids), min(len(ids), count), replace=False)
        wanted = [ids[place] for place in np.sort(chosen)]
        sides = []
        for shard in (self._shard, self._open()):
            records = shard.retrieve(wanted, with_payload=False, with_vector=True)
            found = {record.id: record for record in records}
            sides.append([found[each] for each in wanted])
        full = [self._vector(record) for record in sides[0]]
        folded = [record.vector for record in sides[1]]
        return Sample(
            np.array(full, np.float32).reshape(-1, self._width),
            np.array(folded, np.float32).reshape(-1, self.n_components),
        )

    def exact(self, vector: Float32, k: int) -> npt.NDArray[np.float64]:
        """Search past the index."""
        return self._distances(vector, k, None)

    def two_stage(self, vector: Float32, folded: Float32, k: int, depth: int) -> npt.NDArray[np.float64]:
        """Search as `recipe` does."""
        request = self._qdrant.QueryRequest(depth, query=self._qdrant.Query.Nearest(folded.tolist()))
        candidates = {point.id for point in self._open().query(request)}
        among = self._qdrant.Filter(must=[self._qdrant.HasIdCondition(candidates)])
        return self._distances(vector, k, among)

    def _distances(self, vector: Float32, k: int, among: Any) -> npt.NDArray[np.float64]:
        query = self._qdrant.Query.Nearest(vector.tolist(), using=self._column or None)
        request = self._qdrant.QueryRequest(
            k, query=query, filter=among, params=self._qdrant.SearchParams(exact=True)
        )
        scores = np.array([point.score for point in self._shard.query(request)], np.float64)
        return scores if self.metric == "l2" else 1 - scores

    def mark(self, note: Note) -> None:
        """Replace the note beside the shard's files."""
        with replacing(self._target / _NOTE) as file:
            file.write(note.dumps().encode())

    def recipe(self, k: int, depth: int) -> str:
        """Return Python."""
        using = f", using={self._column!r}" if self._column else ""
        return (
            f"fold = nearfold.Encoder.load(...)  # the encoder given to migrate\n"
            f"full = qdrant_edge.EdgeShard.load({str(self._folder)!r})\n"
            f"folded = qdrant_edge.EdgeShard.load({str(self._target)!r})\n"
            f"z = fold.transform(query[None])[0].tolist()\n"
            f"first = qdrant_edge.QueryRequest({depth}, query=qdrant_edge.Query.Nearest(z))\n"
            f"ids = {{point.id for point in folded.query(first)}}\n"
            f"among = qdrant_edge.Filter(must=[qdrant_edge.HasIdCondition(ids)])\n"
            f"nearest = qdrant_edge.Query.Nearest(query.tolist(){using})\n"
            f"best = full.query(qdrant_edge.QueryRequest({k}, query=nearest, filter=among))\n"
            f"# Points that come later have no fold; run migrate again to fold them.\n"
        )
