"""Qdrant's edge engine: a shard of folds beside the shard of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder
from nearfold.errors import DatabaseError, DataError
from nearfold.integrations.databases.migrating import migrate
from nearfold.integrations.databases.stores import open_store

from .conftest import qdrant_shard

Vectors = npt.NDArray[np.float32]

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]


def points(folder: Path, name: str = "") -> dict[Any, list[float]]:
    import qdrant_edge as qdrant

    shard = qdrant.EdgeShard.load(str(folder))
    records, _ = shard.scroll(qdrant.ScrollRequest(limit=100_000, with_vector=True))
    shard.close()
    assert len({record.id for record in records}) == len(records)
    return {r.id: r.vector[name] if isinstance(r.vector, dict) else r.vector for r in records}


@pytest.mark.parametrize("name", ["", "full"])
def test_every_vector_gets_its_fold(tmp_path: Path, vectors: Vectors, fold: Encoder, name: str) -> None:
    qdrant_shard(tmp_path / "items", vectors, name)
    before = points(tmp_path / "items", name)
    with open_store(f"qdrant:{tmp_path}", fold, table="items") as store:
        done = migrate(fold, store)
    assert done.written == len(vectors)
    assert done.recall.mean >= 0.95
    folds = points(tmp_path / "items-folded")
    assert folds.keys() == before.keys()
    wanted = fold.transform(np.array([before[key] for key in folds], np.float32))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(list(folds.values())), wanted, atol=1e-3)
    assert points(tmp_path / "items", name) == before


def test_the_recipe_runs_as_printed(tmp_path: Path, vectors: Vectors, fold: Encoder) -> None:
    import qdrant_edge

    import nearfold

    qdrant_shard(tmp_path / "items", vectors)
    fold.save(tmp_path / "fold.safetensors")
    with open_store(f"qdrant:{tmp_path}", fold, table="items") as store:
        recipe = migrate(fold, store).recipe
    names: dict[str, Any] = {"qdrant_edge": qdrant_edge, "nearfold": nearfold, "query": vectors[3]}
    exec(recipe.replace("load(...)", f"load({str(tmp_path / 'fold.safetensors')!r})"), names)
    assert len(names["best"]) == 10
    assert names["best"][0].id == 3


def test_what_came_and_went_since_is_made_good(tmp_path: Path, vectors: Vectors, fold: Encoder) -> None:
    import qdrant_edge as qdrant

    qdrant_shard(tmp_path / "items", vectors)
    with open_store(f"qdrant:{tmp_path}", fold, table="items") as store:
        migrate(fold, store)
    shard = qdrant.EdgeShard.load(str(tmp_path / "items"))
    shard.update(qdrant.UpdateOperation.delete_points([1, 3, 5]))
    late = [qdrant.Point(5000 + i, row.tolist()) for i, row in enumerate(vectors[:4])]
    shard.update(qdrant.UpdateOperation.upsert_points(late))
    shard.close()
    with open_store(f"qdrant:{tmp_path}", fold, table="items") as store:
        assert migrate(fold, store).written == 4
    assert points(tmp_path / "items-folded").keys() == points(tmp_path / "items").keys()


def test_what_can_not_be_done_is_refused(tmp_path: Path, vectors: Vectors, fold: Encoder) -> None:
    qdrant_shard(tmp_path / "items", vectors)

    def attempt(fold: Encoder = fold, table: str = "items", dry_run: bool = False, **known: Any) -> None:
        with open_store(f"qdrant:{tmp_path}", fold, table=table, **known) as store:
            migrate(fold, store, dry_run=dry_run)

    attempt(dry_run=True)
    assert not (tmp_path / "items-folded").exists()
    with pytest.raises(DatabaseError, match="no shard"):
        attempt(table="none")
    with pytest.raises(DatabaseError, match="no column other"):
        attempt(column="other")
    with pytest.raises(DatabaseError, match="leave --id out"):
        attempt(key="name")
    with pytest.raises(DatabaseError, match="searched by Cosine, the encoder was learned for l2"):
        attempt(fold=Encoder(fold.weight, metric="l2"))
    with pytest.raises(DataError, match="96 dimensions, the encoder takes 5"):
        attempt(fold=Encoder(np.ones((2, 5), np.float32)))
    (tmp_path / "mine").mkdir()
    with pytest.raises(DatabaseError, match="holds no folded vectors"):
        attempt(name="mine")
    with (
        open_store(f"qdrant:{tmp_path}", fold, table="items"),
        pytest.raises(DatabaseError, match="can't be opened"),
    ):
        attempt()
    attempt()
    with pytest.raises(DatabaseError, match="another encoder"):
        attempt(fold=Encoder(np.ascontiguousarray(fold.weight[:, ::-1])))
