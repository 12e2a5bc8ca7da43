"""Qdrant, by its edge engine: a shard of folded vectors beside the shard of full ones, with the same ids.

Named vectors can't be added to a shard that is there already, so folded ones get a shard of their own, in
which the payload of each point holds a digest of its vector.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Metric, chunk_rows
from nearfold._utils.extras import import_extra
from nearfold._utils.files import new_folder, open_regular, replacing
from nearfold._utils.schema import inside
from nearfold.errors import DatabaseError, FileError, ParameterError
from nearfold.folds.fold import Fold
from nearfold.integrations.databases.base import (
    OLDER,
    Advance,
    Filled,
    FoldRows,
    Note,
    Sample,
    Store,
    Survey,
    check_sound,
    chosen_column,
    digests,
    told_panic,
)
from nearfold.io.lists import first_line

__all__ = ["NAMED", "SCHEMES", "QdrantStore", "open_store"]

SCHEMES = ("qdrant",)
NAMED = "qdrant:FOLDER"

_DISTANCES: dict[Metric, str] = {"cosine": "Cosine", "l2": "Euclid", "ip": "Dot"}
_CONFIG, _NOTE = "edge_config.json", "nearfold.json"
# In the payload of each point of folded vectors.
_DIGEST = "nearfold_digest"
_BATCH_BYTES = 8 << 20
# Ids looked at in one call.
_PAGE = 10_000


def open_store(
    where: str, fold: Fold, *, table: str, column: str | None, key: str | None, name: str | None, dtype: str
) -> QdrantStore:
    """Open a shard.

    Parameters
    ----------
    where : str
        The folder above that of the shard, which `table` names.
    fold : Fold
        The fold whose results are stored.
    table, column, key, name, dtype
        As for `stores.open_store`.

    Returns
    -------
    QdrantStore

    Raises
    ------
    DatabaseError
        The shard or the named vector is missing or unfit, or another process has the shard open.
    MissingExtraError
        qdrant_edge is not installed.
    """
    qdrant = import_extra("qdrant_edge", "qdrant", "migrating in Qdrant")
    if key is not None:
        raise DatabaseError("Qdrant tells points apart by itself; leave --id out")
    if not inside(table):
        raise ParameterError(f"table={table!r} must be a folder below {where}")
    folder = Path(where) / table
    named = f"{folder.name}-folded" if name is None else name
    if named in (".", "..", folder.name) or PurePath(named).parts != (named,) or {"\0", "\\"} & set(named):
        raise ParameterError(f"name={named!r} must be the name of another folder beside {folder}")
    try:
        with open_regular(folder / _CONFIG) as file:
            config = json.load(file)
        vectors = {
            vector: (int(entry["size"]), entry["distance"])
            for vector, entry in config["vectors"].items()
            if entry.get("multivector_config") is None
        }
        unfit = {
            each: "several vectors a point (multivectors)"
            for each in config["vectors"]
            if each not in vectors
        }
        unfit |= dict.fromkeys(config.get("sparse_vectors") or {}, "sparse vectors")
    except (FileError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatabaseError(f"{folder}: is no shard of Qdrant's edge engine ({error})") from error
    unfit = {each: f"{what}, of which nearfold folds none" for each, what in unfit.items()}
    column = chosen_column(list(vectors), column, str(folder), unfit)
    width, distance = vectors[column]
    if distance != _DISTANCES[fold.metric]:
        raise DatabaseError(
            f"{folder}: is searched by {distance}, the encoder was learned for {fold.metric}; fit one for it"
        )
    return QdrantStore(_opened(qdrant, folder), folder, fold, column, width, folder.with_name(named), dtype)


def _opened(qdrant: Any, folder: Path) -> Any:
    try:
        return qdrant.EdgeShard.load(str(folder))
    except Exception as error:
        raise DatabaseError(f"{folder}: can't be opened: {first_line(error)}") from error
    except BaseException as error:
        raise told_panic(error, str(folder)) or error from error


class QdrantStore(Store):
    """A shard of folded vectors beside a shard of full ones, of Qdrant's edge engine.

    Parameters
    ----------
    shard : qdrant_edge.EdgeShard
        The open shard of full vectors. `close` closes it.
    folder : Path
        The folder of that shard.
    fold : Fold
        The fold whose results are stored.
    column : str
        The name of the full vector; "" where a point has only one.
    width : int
        The dimensions of the full vectors.
    target : Path
        The folder of the new shard.
    dtype : {"float16", "float32"}
        The type of the folded vectors.
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
        self.source_mark, self.target_mark = f"{folder.name} {column}".rstrip(), target.name

    def close(self) -> None:
        """Write what is pending, and give both shards back."""
        for shard in (self._shard, self._beside):
            if shard is not None:
                shard.close()

    def _open(self) -> Any:
        if self._beside is None:
            self._beside = _opened(self._qdrant, self._target)
        return self._beside

    def _count(self) -> int:
        wanted = self._qdrant.Filter(must=[self._qdrant.HasVectorCondition(self._column)])
        counted = self._shard.count(self._qdrant.CountRequest(filter=wanted, exact=True))
        return int(counted)

    def survey(self) -> Survey:
        """Look at both folders, and count."""
        note, folded = self._found(), 0
        if note is not None:
            folded = int(self._open().count(self._qdrant.CountRequest(exact=True)))
        made = f"shard {self._target} ({_DISTANCES[self.metric]}, {self.n_components} of {self.dtype})"
        source = f"{self._folder}" + (f" ({self._column})" if self._column else "")
        # Digests and the names in the note came together.
        older = f"{self._target} {OLDER}" if note is not None and note.source is None else None
        return Survey(source, str(self._target), self._count(), folded, self._width, note, [made], older)

    def _found(self) -> Note | None:
        """Return the note of the shard, if there is one; refuse anything else of its name."""
        if not os.path.lexists(self._target):
            return None
        try:
            with open_regular(self._target / _NOTE) as file:
                text = file.read(1 << 16).decode(errors="replace")
        except (FileError, OSError):
            text = ""
        return Note.loads(text, str(self._target))

    def _claimed(self) -> Any:
        """Return the shard of folds, open, after it was seen to be nearfold's own."""
        self._check_ours(self._found(), str(self._target))
        return self._open()

    def prepare(self, note: Note) -> None:
        """Make the shard, whole or not at all."""
        self._note = note
        if self._found() is not None:
            return
        kind = getattr(self._qdrant.VectorStorageDatatype, self.dtype.capitalize())
        distance = getattr(self._qdrant.Distance, _DISTANCES[self.metric])
        vector = self._qdrant.EdgeVectorParams(self.n_components, distance, datatype=kind)
        with new_folder(self._target) as beside:
            self._qdrant.EdgeShard.create(str(beside), self._qdrant.EdgeConfig(vectors=vector)).close()
            (beside / _NOTE).write_text(note.dumps())

    def fill(self, fold: FoldRows, advance: Advance) -> Filled:
        """Compare each vector with the digest that was kept of it; flush after each batch."""
        beside = self._claimed()
        total = Filled(0, 0)
        for ids in self._full_ids(chunk_rows(self._width, _BATCH_BYTES)):
            done = self._written(ids, fold, beside)
            advance(done.written)
            total = total.plus(done)
        return total

    def _written(self, ids: list[Any], fold: FoldRows, beside: Any) -> Filled:
        records = self._shard.retrieve(ids, with_payload=False, with_vector=True)
        records = [record for record in records if self._vector(record) is not None]
        if not records:
            return Filled(0, 0)
        ids = [record.id for record in records]
        vectors = np.array([self._vector(record) for record in records], np.float32)
        check_sound(str(self._folder), vectors, ids)
        fresh = [digest.hex() for digest in digests(vectors)]
        there = {
            record.id: record.payload or {}
            for record in beside.retrieve(ids, with_payload=True, with_vector=False)
        }
        changed = [
            place for place, each in enumerate(ids) if there.get(each, {}).get(_DIGEST) != fresh[place]
        ]
        if not changed:
            return Filled(0, 0)
        operation, made, anew = self._qdrant.UpdateOperation, [], []
        for place, row in zip(changed, fold(vectors[changed]).astype(np.float32), strict=True):
            each = ids[place]
            if each not in there:
                made.append(self._qdrant.Point(each, row.tolist(), {_DIGEST: fresh[place]}))
                continue
            if there[each] and _DIGEST not in there[each]:
                raise DatabaseError(
                    f"{self._target}: nothing shows that nearfold wrote the point {each!r}; it stays as it "
                    "is: move it elsewhere, and run it again"
                )
            anew.append((each, row.tolist(), fresh[place]))
        self._claimed()
        if made:
            beside.update(operation.upsert_points(made))
        for each, row, _ in anew:
            beside.update(operation.update_vectors([self._qdrant.PointVectors(each, row)]))
        # The digests come last: a run that is killed before them does it again.
        beside.flush()
        for each, _, digest in anew:
            beside.update(operation.set_payload([each], {_DIGEST: digest}))
        beside.flush()
        return Filled(len(made), len(anew))

    def _full_ids(self, count: int) -> Iterator[list[Any]]:
        """Yield ids of full vectors, at most so many at a time."""
        wanted = self._qdrant.Filter(must=[self._qdrant.HasVectorCondition(self._column)])
        for ids in self._ids(self._shard, wanted):
            for first in range(0, len(ids), count):
                yield ids[first : first + count]

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

    def _orphans(self) -> Iterator[tuple[list[Any], int]]:
        """Yield ids of folds without a full vector, and how many more nothing shows to be ours."""
        for ids in self._ids(self._open()):
            records = self._shard.retrieve(ids, with_payload=False, with_vector=True)
            full = {record.id for record in records if self._vector(record) is not None}
            alone = [each for each in ids if each not in full]
            found = self._open().retrieve(alone, with_payload=True, with_vector=False) if alone else []
            own = [record.id for record in found if _DIGEST in (record.payload or {})]
            yield own, len(alone) - len(own)

    def finish(self, *, index: bool) -> int:
        """Remove orphans; let the engine build its indexes."""
        beside, removed = self._claimed(), 0
        for ids, _ in list(self._orphans()):
            if ids:
                beside.update(self._qdrant.UpdateOperation.delete_points(ids))
                removed += len(ids)
        beside.flush()
        if index:
            beside.optimize()
        return removed

    def gaps(self) -> tuple[int, int]:
        """Count ids: a point can't be doubled."""
        missing = 0
        for ids in self._full_ids(_PAGE):
            missing += len(ids) - len(self._open().retrieve(ids, with_payload=False, with_vector=False))
        return missing, sum(len(own) + others for own, others in self._orphans())

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

    def exact(self, vector: Float32, k: int) -> Float64:
        """Search past the index."""
        return self._distances(vector, k, None)

    def two_stage(self, vector: Float32, folded: Float32, k: int, n_candidates: int) -> Float64:
        """Search as `recipe` does."""
        request = self._qdrant.QueryRequest(n_candidates, query=self._qdrant.Query.Nearest(folded.tolist()))
        candidates = {point.id for point in self._open().query(request)}
        among = self._qdrant.Filter(must=[self._qdrant.HasIdCondition(candidates)])
        return self._distances(vector, k, among)

    def _distances(self, vector: Float32, k: int, among: Any) -> Float64:
        query = self._qdrant.Query.Nearest(vector.tolist(), using=self._column or None)
        request = self._qdrant.QueryRequest(
            k, query=query, filter=among, params=self._qdrant.SearchParams(exact=True)
        )
        scores = np.array([point.score for point in self._shard.query(request)], np.float64)
        return scores if self.metric == "l2" else 1 - scores

    def mark(self, note: Note) -> None:
        """Replace the note beside the shard's files."""
        self._claimed()
        with replacing(self._target / _NOTE) as file:
            file.write(note.dumps().encode())

    def recipe(self, k: int, n_candidates: int) -> str:
        """Return Python."""
        using = f", using={self._column!r}" if self._column else ""
        return (
            f"fold = nearfold.Encoder.load(...)  # the encoder given to migrate\n"
            f"full = qdrant_edge.EdgeShard.load({str(self._folder)!r})\n"
            f"folded = qdrant_edge.EdgeShard.load({str(self._target)!r})\n"
            f"z = fold.transform(query[None])[0].tolist()\n"
            f"first = qdrant_edge.QueryRequest({n_candidates}, query=qdrant_edge.Query.Nearest(z))\n"
            f"ids = {{point.id for point in folded.query(first)}}\n"
            f"among = qdrant_edge.Filter(must=[qdrant_edge.HasIdCondition(ids)])\n"
            f"nearest = qdrant_edge.Query.Nearest(query.tolist(){using})\n"
            f"best = full.query(qdrant_edge.QueryRequest({k}, query=nearest, filter=among))\n"
            f"# Points that come later have no fold; run migrate again to fold them.\n"
        )
