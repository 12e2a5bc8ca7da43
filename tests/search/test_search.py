"""Two-stage search: results, changes, folders, threads and proofs."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from nearfold import Codec, Encoder, SearchIndex, config_context, fit_codec, open_source
from nearfold._utils.arrays import Metric
from nearfold.codecs.projections import SharedProjection
from nearfold.codecs.quantizers.floats import Floats
from nearfold.errors import DataError, FileError, NearfoldError, ParameterError
from nearfold.scan.exact import search as exact

from ..io.test_vectors import write
from ..searching import exact as all_scores

Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def base(sample: Vectors) -> Vectors:
    return np.ascontiguousarray(sample[:1400, :96] + 0.05)


@pytest.fixture(scope="module")
def queries(sample: Vectors) -> Vectors:
    return np.ascontiguousarray(sample[1400:, :96] + 0.05)


@pytest.fixture(scope="module")
def codec(base: Vectors) -> Codec:
    return fit_codec(base, "NearFold48,SQ8")


def breadth(kind: str, value: int | None) -> dict[str, int | None]:
    """Return the parameter by which a kind of index searches more thoroughly."""
    return {"ivf": {"nprobe": value}, "hnsw": {"ef_search": value}}.get(kind, {})


def overlap(found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    pairs = zip(found, truth, strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_reranking_everything_is_exact_search(
    base: Vectors, queries: Vectors, metric: Metric, kind: str
) -> None:
    index = SearchIndex.build(fit_codec(base, "NearFold48,SQ8", metric=metric), base, kind=kind)
    found = index.search(queries, 10, n_candidates=len(base), **breadth(kind, len(base)))
    truth = exact(base, queries, 10, metric)
    # A graph by inner product may leave some rows unreachable.
    assert overlap(found.ids, truth) > (0.9 if kind == "hnsw" else 0.9999)
    first = base[found.ids[:, 0]].astype(np.float64)
    wanted = {
        "ip": (first * queries).sum(axis=1),
        "l2": -np.square(first - queries).sum(axis=1),
        "cosine": (first * queries).sum(axis=1)
        / np.linalg.norm(first, axis=1)
        / np.linalg.norm(queries, axis=1),
    }
    np.testing.assert_allclose(found.scores[:, 0], wanted[metric], rtol=1e-4, atol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    "spec", ["NearFold48,AQ12", "NearFold48,RSQ2", "PQ12", "RaBitQ1", "SQ4", "F16", "F32", "Binary"]
)
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_every_kind_with_every_quantiser_finds_or_says_why_not(
    base: Vectors, queries: Vectors, spec: str, kind: str
) -> None:
    made = fit_codec(base, spec)
    try:
        index = SearchIndex.build(made, base, kind=kind)
    except ParameterError as error:
        assert "use index kind flat" in str(error)  # noqa: PT017
        assert (spec.split(",")[-1][:2], kind) in {
            ("AQ", "hnsw"), ("RS", "hnsw"), ("PQ", "hnsw"), ("Bi", "hnsw"), ("Ra", "hnsw"), ("Ra", "ivf")
        }  # fmt: skip
        return
    truth = exact(base, queries, 5, "cosine")
    least = 0.6 if spec == "Binary" else 0.9
    assert overlap(index.search(queries, 5, n_candidates=100, **breadth(kind, 200)).ids, truth) > least


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_vectors_come_and_go(codec: Codec, base: Vectors, kind: str, tmp_path: Path) -> None:
    index = SearchIndex.build(codec, base[:1000], ids=np.arange(1000) + 5000, kind=kind)
    index.add(base[1000:1100], np.arange(100))
    assert len(index) == 1100
    assert (index.search(base[1000:1100], 1).ids[:, 0] == np.arange(100)).mean() > 0.98
    index.remove(np.arange(50))
    found = index.search(base[1000:1100], 10).ids
    assert not np.isin(found, np.arange(50)).any()
    assert (found >= 0).all()
    assert (found[50:, 0] == np.arange(50, 100)).mean() > 0.98
    # Removing most makes it anew, from full vectors.
    index.remove(np.arange(5000, 5900))
    assert len(index) == 150
    assert set(index.ids) == {*range(50, 100), *range(5900, 6000)}
    assert (
        index.search(base[900:1000], 1, **breadth(kind, 150)).ids[:, 0] == np.arange(5900, 6000)
    ).mean() > 0.95
    index.add(base[1100:1101])
    assert index.search(base[1100:1101], 1, **breadth(kind, 150)).ids[0, 0] == 6000
    index.save(tmp_path / "ix")
    again = SearchIndex.load(tmp_path / "ix")
    for asked in (index, again):
        assert len(asked) == 151
        np.testing.assert_array_equal(
            asked.search(base[:50], 5, **breadth(kind, 150)).ids,
            index.search(base[:50], 5, **breadth(kind, 150)).ids,
        )


def test_a_removed_id_can_be_given_again(codec: Codec, base: Vectors) -> None:
    index = SearchIndex.build(codec, base[:300])
    index.remove([7])
    index.add(base[400:401], [7])
    assert index.search(base[400:401], 1).ids[0, 0] == 7


@pytest.mark.parametrize(
    ("kind", "certify"), [("flat", False), ("ivf", False), ("hnsw", False), ("flat", True)]
)
def test_an_addition_refused_midway_leaves_nothing_behind(
    base: Vectors,
    queries: Vectors,
    kind: str,
    certify: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("nearfold.search.index._CHUNK_BYTES", 100 * 96 * 4)
    # Without a fold a zero row has no direction to encode.
    codec = fit_codec(base, "SQ8")
    index = SearchIndex.build(codec, base[:500], kind=kind, certify=certify)
    before = index.search(queries, 10, n_candidates=50, **breadth(kind, 500))
    refused = base[500:900].copy()
    refused[350] = 0
    with pytest.raises(DataError, match="zero"):
        index.add(refused)
    assert len(index) == 500
    kept = index.search(queries, 10, n_candidates=50, **breadth(kind, 500))
    assert overlap(kept.ids, before.ids) > 0.99
    index.add(base[500:900])
    index.save(tmp_path / "index")
    again = SearchIndex.load(tmp_path / "index")
    assert len(again) == 900
    for held in (index, again):
        found = held.search(base[:900], 1, n_candidates=50, **breadth(kind, 900))
        assert (found.ids[:, 0] == np.arange(900)).mean() > 0.99
    if certify:
        truth = exact(base[:900], queries, 10, "cosine")
        assert overlap(index.search(queries, 10, certified=True).ids, truth) == 1


def test_codes_alone_read_no_full_vectors(codec: Codec, base: Vectors, queries: Vectors) -> None:
    def never(_ids: npt.NDArray[np.int64]) -> Vectors:
        raise AssertionError("full vectors were read")

    index = SearchIndex.build(codec, base, fetch=never)
    found = index.search(queries, 10, n_candidates=0)
    assert (found.n_read == 0).all()
    assert overlap(found.ids, exact(base, queries, 10, "cosine")) > 0.6


def test_full_vectors_come_from_a_function_or_a_file(
    codec: Codec, base: Vectors, queries: Vectors, tmp_path: Path
) -> None:
    asked: list[int] = []

    def fetch(ids: npt.NDArray[np.int64]) -> Vectors:
        asked.extend(ids.tolist())
        return base[ids - 100]

    wanted = SearchIndex.build(codec, base).search(queries, 10)
    fetched = SearchIndex.build(codec, base, ids=np.arange(len(base)) + 100, fetch=fetch)
    np.testing.assert_array_equal(fetched.search(queries, 10).ids, wanted.ids + 100)
    assert asked
    assert min(asked) >= 100
    fetched.save(tmp_path / "fetched")
    with pytest.raises(ParameterError, match="fetch"):
        SearchIndex.load(tmp_path / "fetched")
    again = SearchIndex.load(tmp_path / "fetched", fetch=fetch)
    np.testing.assert_array_equal(again.search(queries, 10).ids, wanted.ids + 100)
    for name in ("base.npy", "half.npy"):
        np.save(tmp_path / name, base.astype(np.float16) if name == "half.npy" else base)
        index = SearchIndex.build(codec, tmp_path / name)
        assert overlap(index.search(queries, 10).ids, wanted.ids) > 0.99
        index.save(tmp_path / "ix")
        assert not list((tmp_path / "ix").glob("vectors*")), "a file is not copied"
        assert overlap(SearchIndex.load(tmp_path / "ix").search(queries, 10).ids, wanted.ids) > 0.99
    np.save(tmp_path / "half.npy", base[:10].astype(np.float16))
    with pytest.raises(FileError, match=r"half\.npy: has changed"):
        SearchIndex.load(tmp_path / "ix")


def written(path: Path, vectors: Vectors) -> Path:
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["vectors"] = vectors
        return path
    return write(path, vectors)


@pytest.mark.parametrize("name", ["base.fvecs", "base.h5", "base.fbin"])
def test_full_vectors_come_from_formats_with_single_rows(
    codec: Codec, base: Vectors, queries: Vectors, name: str, tmp_path: Path
) -> None:
    index = SearchIndex.build(codec, written(tmp_path / name, base))
    # Equal candidates in another order are read back into theirs.
    index.remove([0, 7])
    wanted = SearchIndex.build(codec, base)
    wanted.remove([0, 7])
    for asked in (index, wanted):
        asked.add(base[:1], [5000])
    found, known = index.search(queries, 10), wanted.search(queries, 10)
    np.testing.assert_array_equal(found.ids, known.ids)
    np.testing.assert_allclose(found.scores, known.scores, rtol=1e-6)
    assert index.search(base[:1], 1).ids[0, 0] == 5000
    index.save(tmp_path / "ix")
    np.testing.assert_array_equal(SearchIndex.load(tmp_path / "ix").search(queries, 10).ids, known.ids)


def test_vectors_of_any_kind_are_searched_alike(
    codec: Codec, base: Vectors, queries: Vectors, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    for name, rows in (("a.npy", base[:600]), ("b.parquet", base[600:601]), ("c.npy", base[601:])):
        written(tmp_path / "parts" / name, rows)
    parquet, asked = written(tmp_path / "base.parquet", base), written(tmp_path / "queries.parquet", queries)
    frame = pd.DataFrame({"vector": list(base)})
    wanted = SearchIndex.build(codec, base).search(queries, 10)
    for X in (parquet, parquet.as_uri(), open_source(parquet), tmp_path / "parts", frame, frame["vector"]):
        built = SearchIndex.build(codec, X, kind="flat")
        built.save(tmp_path / "ix")
        added = SearchIndex.build(codec, base[:10])
        added.remove(np.arange(10))
        added.add(X, np.arange(len(base)))
        for index in (built, SearchIndex.load(tmp_path / "ix"), added):
            np.testing.assert_array_equal(index.search(asked, 10).ids, wanted.ids)
    assert len(list((tmp_path / "ix").glob("vectors*"))) == 1
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["other"], file["wanted"] = base[::-1], base
    index = SearchIndex.build(codec, open_source(tmp_path / "two.h5", "wanted"))
    index.save(tmp_path / "ix")
    np.testing.assert_array_equal(SearchIndex.load(tmp_path / "ix").search(queries, 10).ids, wanted.ids)
    fetched = SearchIndex.build(codec, parquet, fetch=lambda ids: base[ids])
    np.testing.assert_array_equal(fetched.search(queries, 10).ids, wanted.ids)


def test_files_without_single_rows_must_fit_the_budget(codec: Codec, base: Vectors, tmp_path: Path) -> None:
    path = written(tmp_path / "base.parquet", base)
    with (
        config_context(memory=base.nbytes - 1),
        pytest.raises(FileError, match=r"base\.parquet: single rows can't be read"),
    ):
        SearchIndex.build(codec, path)


def test_many_small_additions_leave_few_segments(codec: Codec, base: Vectors, tmp_path: Path) -> None:
    index = SearchIndex.build(codec, base[:100])
    for start in range(100, 1400, 20):
        part = base[start : start + 20].copy()
        index.add(part)
        part[:] = np.nan
    assert len(index._vectors.segments) < 8
    index.save(tmp_path / "ix")
    for held in (index, SearchIndex.load(tmp_path / "ix")):
        assert held.search(base, 1).ids[:, 0].tolist() == list(range(1400))


@pytest.mark.parametrize("memory", [None, 1])
def test_a_proof_needs_no_codes_in_memory(
    base: Vectors, queries: Vectors, memory: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfold.search.bounds._BLOCK", 100)
    index = SearchIndex.build(fit_codec(base, "NearFold72,F16"), base[:1000], certify=True)
    with config_context(memory=memory):
        for rows in (1000, 1050, 1400):
            index.add(base[len(index) : rows])
            found = index.search(queries, 10, certified=True).ids
            assert overlap(found, exact(base[:rows], queries, 10, "cosine")) == 1
    assert index._bounds is not None
    assert len(index._bounds._decoded) == (14 if memory is None else 0)
    decoded = []
    monkeypatch.setattr(Codec, "decode", lambda *_: decoded.append(1))
    if memory is None:
        index.search(queries, 10, certified=True)
        assert not decoded


def test_parameters_of_other_kinds_are_refused(codec: Codec, base: Vectors) -> None:
    index = SearchIndex.build(codec, base[:300], kind="hnsw", M=4, ef_construction=20)
    assert index._candidates.index.hnsw.efConstruction == 20
    assert index._candidates.index.hnsw.nb_neighbors(1) == 4
    with pytest.raises(ParameterError, match="nprobe is for indexes of kind ivf"):
        index.search(base[:2], nprobe=3)
    index.remove(np.arange(200))
    assert index._candidates.index.hnsw.efConstruction == 20


def test_a_users_file_in_an_indexs_folder_is_never_removed(
    codec: Codec, base: Vectors, tmp_path: Path
) -> None:
    folder = tmp_path / "ix"
    folder.mkdir()
    np.save(folder / "base.npy", base)
    SearchIndex.build(codec, folder / "base.npy").save(folder)
    SearchIndex.build(codec, base).save(folder)
    assert len(np.load(folder / "base.npy")) == len(base)
    manifest = json.loads((folder / "index.json").read_text())
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    manifest["files"]["000001./../../precious"] = [9, ""]
    (folder / "index.json").write_text(json.dumps(manifest))
    SearchIndex.build(codec, base).save(folder)
    assert precious.read_text() == "untouched"
    # Nothing of the generations before is left.
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["index.json", *json.loads((folder / "index.json").read_text())["files"], "base.npy"]
    )


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("spec", ["NearFold72,F16", "NearFold48,AQ12"])
def test_certified_search_is_exact_and_need_not_read_everything(
    base: Vectors, queries: Vectors, metric: Metric, spec: str, tmp_path: Path
) -> None:
    index = SearchIndex.build(fit_codec(base, spec, metric=metric), base, certify=True)
    index.remove([3])
    index.add(base[3:4], [9999])
    index.save(tmp_path / "ix")
    truth = exact(base, queries, 10, metric)
    truth[truth == 3] = 9999
    found = SearchIndex.load(tmp_path / "ix").search(queries, 10, certified=True)
    assert overlap(found.ids, truth) == 1.0
    assert found.n_read.max() <= len(base)
    if spec.endswith("F16"):
        assert found.n_read.mean() < len(base) / 2
    with pytest.raises(ParameterError, match="certif"):
        SearchIndex.build(index.codec, base).search(queries, 10, certified=True)


def test_threads_search_while_another_changes(codec: Codec, base: Vectors) -> None:
    index = SearchIndex.build(codec, base[:1000])
    failures: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                found = index.search(base[:20], 3)
                assert (found.ids[:, 0] == np.arange(20)).all()
            except BaseException as error:
                failures.append(error)
                return

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for round_ in range(20):
        index.add(base[1000:1100], np.arange(100) + 10_000 + 100 * round_)
        index.remove(np.arange(100) + 10_000 + 100 * round_)
    done.set()
    for asker in askers:
        asker.join()
    assert not failures
    assert len(index) == 1000


def test_a_reader_sees_the_old_index_or_the_new_one(codec: Codec, base: Vectors, tmp_path: Path) -> None:
    index = SearchIndex.build(codec, base[:300])
    index.save(tmp_path / "ix")
    sizes: set[int] = set()
    failures: list[BaseException] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            try:
                sizes.add(len(SearchIndex.load(tmp_path / "ix")))
            except BaseException as error:
                failures.append(error)
                return

    reader = threading.Thread(target=load)
    reader.start()
    for _ in range(15):
        index.add(base[300:400])
        index.save(tmp_path / "ix")
        index.remove(index.ids[300:])
        index.save(tmp_path / "ix")
    done.set()
    reader.join()
    assert not failures
    assert sizes <= {300, 400}
    assert sizes


def test_damage_is_named(codec: Codec, base: Vectors, tmp_path: Path) -> None:
    SearchIndex.build(codec, base[:300]).save(tmp_path / "ix")
    with pytest.raises(FileError, match="not an index"):
        SearchIndex.load(tmp_path)
    for path in sorted((tmp_path / "ix").iterdir()):
        whole = path.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
            path.write_bytes(damaged)
            with pytest.raises(NearfoldError, match=path.name.split(".")[0]):
                SearchIndex.load(tmp_path / "ix")
        path.unlink()
        with pytest.raises(NearfoldError):
            SearchIndex.load(tmp_path / "ix")
        path.write_bytes(whole)
    manifest = json.loads((tmp_path / "ix" / "index.json").read_text())
    for name in manifest["parts"]:
        parts = {other: value for other, value in manifest["parts"].items() if other != name}
        (tmp_path / "ix" / "index.json").write_text(json.dumps({**manifest, "parts": parts}))
        with pytest.raises(FileError, match="damaged"):
            SearchIndex.load(tmp_path / "ix")
    manifest["parts"]["index.faiss"] = "../elsewhere"
    (tmp_path / "ix" / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(FileError):
        SearchIndex.load(tmp_path / "ix")


def test_bad_input_is_refused(codec: Codec, base: Vectors, queries: Vectors, tmp_path: Path) -> None:
    index = SearchIndex.build(codec, base[:300])
    with pytest.raises(DataError, match="96"):
        index.search(queries[:, :5])
    with pytest.raises(ParameterError, match="k="):
        index.search(queries, 0)
    with pytest.raises(DataError, match="taken"):
        index.add(base[:2], [1, 1])
    with pytest.raises(DataError, match="taken"):
        index.add(base[:1], [299])
    with pytest.raises(DataError, match="one id for each"):
        index.add(base[:2], [1000])
    with pytest.raises(DataError, match="whole numbers"):
        index.add(base[:1], [0.5])
    with pytest.raises(DataError, match="id 777 is not"):
        index.remove([1, 777])
    assert len(index) == 300
    with pytest.raises(ParameterError, match="kind"):
        SearchIndex.build(codec, base, kind="tree")
    with pytest.raises(DataError, match="row 4"):
        SearchIndex.build(codec, np.where(np.arange(300)[:, None] == 4, np.nan, base[:300]))
    with pytest.raises(FileError):
        SearchIndex.build(codec, tmp_path / "none.npy")
    few = SearchIndex.build(codec, base[:3]).search(queries[:2], 5)
    assert (few.ids[:, :3] >= 0).all()
    assert (few.ids[:, 3:] == -1).all()
    assert np.isneginf(few.scores[:, 3:]).all()


def clustered(rng: np.random.Generator, rows: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Return rows in 20 clusters, and the cluster of each."""
    centers = 2 * rng.standard_normal((20, 24))
    which = rng.integers(0, 20, rows)
    return (centers[which] + rng.standard_normal((rows, 24))).astype(np.float32), which


def recall(index: SearchIndex, base: Vectors, ids: npt.NDArray[np.int64], queries: Vectors) -> float:
    return overlap(index.search(queries, 10).ids, ids[exact(base, queries, 10, "cosine")])


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("by_cluster", [False, True])
def test_recall_stays_as_rows_go_and_come(rng: np.random.Generator, kind: str, by_cluster: bool) -> None:
    base, which = clustered(rng, 3000)
    queries = clustered(np.random.default_rng(0), 3040)[0][3000:]
    index = SearchIndex.build(fit_codec(base, "PCA16,SQ8"), base, kind=kind)
    flat = SearchIndex.build(index.codec, base)
    order = np.argsort(which, kind="stable") if by_cluster else rng.permutation(3000)
    left = np.arange(3000)
    for part in np.array_split(order[:2850], 8):
        index.remove(part)
        flat.remove(part)
        left = np.setdiff1d(left, part)
        found = recall(index, base[left], left, queries)
        assert found > recall(flat, base[left], left, queries) - 0.05
    # Other rows come back, from other places than those that are left.
    for part in np.array_split(order[:2850], 3):
        index.add(base[part], part)
        flat.add(base[part], part)
        left = np.union1d(left, part)
        found = recall(index, base[left], left, queries)
        assert found > recall(flat, base[left], left, queries) - 0.05
    if kind == "ivf":
        # Lists grow with what they hold.
        assert len(index._candidates.centroids) > 100  # type: ignore[attr-defined]


@pytest.mark.parametrize("least", [None, 1])
@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_whoever_asks_where_all_was_removed_is_answered(
    rng: np.random.Generator, kind: str, least: int | None
) -> None:
    base, which = clustered(rng, 2000)
    index = SearchIndex.build(fit_codec(base, "PCA16,SQ8"), base, kind=kind)
    index.remove(np.flatnonzero(which < 9))
    found = index.search(base[which < 9][:100], 10, **breadth(kind, least))
    assert (which[found.ids] >= 9).all()
    assert (found.ids >= 0).all()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_what_was_removed_is_never_proven(base: Vectors, metric: Metric) -> None:
    index = SearchIndex.build(fit_codec(base, "NearFold48,SQ8", metric=metric), base[:300], certify=True)
    gone = np.arange(140)
    index.remove(gone)
    found = index.search(base[:20], 50, certified=True)
    assert (found.ids >= 140).all()
    assert overlap(found.ids - 140, exact(base[140:300], base[:20], 50, metric)) == 1
    # An id that comes again stands for its new vector alone.
    index.add(base[500:501], [3])
    assert index.search(base[500:501], 1, certified=True).ids[0, 0] == 3
    np.testing.assert_array_equal(
        np.isin(index.search(base[3:4], 161, certified=True).ids, gone[gone != 3]), False
    )


@pytest.mark.parametrize(
    ("kind", "spec", "certify"),
    [("flat", "SQ8", True), ("ivf", "SQ8", False), ("ivf", "PQ12", False), ("hnsw", "F16", False)],
)
def test_an_emptied_index_finds_nothing_and_takes_new_rows(
    base: Vectors, kind: str, spec: str, certify: bool, tmp_path: Path
) -> None:
    index = SearchIndex.build(fit_codec(base, spec), base[:300], kind=kind, certify=certify)
    index.remove(index.ids)
    index.save(tmp_path / "ix")
    for held in (index, SearchIndex.load(tmp_path / "ix")):
        for n_candidates in (None, 0, 1000):
            found = held.search(base[:2], 3, n_candidates=n_candidates)
            assert found.ids.tolist() == [[-1] * 3] * 2
            assert np.isneginf(found.scores).all()
            assert found.n_read.tolist() == [0, 0]
        if certify:
            assert (held.search(base[:2], 3, certified=True).ids == -1).all()
        held.add(base[:600])
        assert (held.search(base[:50], 1).ids[:, 0] == np.arange(50)).mean() > 0.95
        if certify:
            assert held.search(base[:50], 1, certified=True).ids[:, 0].tolist() == list(range(50))


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("copies", ["of one row", "of every row", "in one direction"])
def test_equal_rows_leave_room_for_others(
    base: Vectors, queries: Vectors, kind: str, copies: str, tmp_path: Path
) -> None:
    others = base[:600]
    if copies == "of one row":
        rows = np.vstack([others, np.repeat(others[:1], 600, 0)])
    elif copies == "of every row":
        rows = np.repeat(others, 8, 0)
    else:
        # Cosine can't tell them apart, and so neither can codes.
        rows = np.vstack([others, others[:1] * np.linspace(1, 9, 600, dtype=np.float32)[:, None]])
    index = SearchIndex.build(fit_codec(others, "NearFold48,SQ8"), rows[::2], kind=kind)
    index.add(rows[1::2])
    ids = np.concatenate([np.arange(len(rows))[::2], np.arange(len(rows))[1::2]])
    index.save(tmp_path / "ix")
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    asked = np.vstack([queries, others[:1], others[:20] + 0.01])
    scores = asked.astype(np.float64) @ unit.T / np.linalg.norm(asked.astype(np.float64), axis=1)[:, None]
    for held in (index, SearchIndex.load(tmp_path / "ix")):
        found = ids[held.search(asked, 10).ids]
        bar = np.sort(scores, axis=1)[:, -10:-9] - 1e-6
        assert (np.take_along_axis(scores, found, 1) >= bar).mean() > (0.9 if kind == "ivf" else 0.97)
        assert all(len(set(line)) == 10 for line in found.tolist())
        # One copy goes: the others are still found.
        held.remove([0])
        assert len(held) == len(rows) - 1
        assert (held.search(others[:1], 3).scores > 1 - 1e-6).all()


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_the_last_of_equal_rows_keeps_their_code(base: Vectors, kind: str) -> None:
    index = SearchIndex.build(fit_codec(base, "SQ8"), base[:300], kind=kind, certify=kind == "flat")
    index.add(base[18:19])
    # Made anew, a code has its row alone, and no longer in the order of rows.
    index.remove(np.setdiff1d(np.arange(300), np.arange(50)[np.arange(50) != 18]))
    ids = np.append(np.setdiff1d(np.arange(50), 18), 300)
    assert index.ids.tolist() == ids.tolist()
    assert index.search(base[ids % 282], 1, n_candidates=5).ids[:, 0].tolist() == ids.tolist()
    if kind == "flat":
        assert index.search(base[ids % 282], 1, certified=True).ids[:, 0].tolist() == ids.tolist()


def test_ids_at_the_ends_of_what_they_can_be(codec: Codec, base: Vectors) -> None:
    last = np.iinfo(np.int64).max
    index = SearchIndex.build(codec, base[:3], ids=[0, last, 5])
    assert index.search(base[1:2], 1).ids[0, 0] == last
    with pytest.raises(DataError, match="give ids"):
        index.add(base[3:4])
    for wrong in ([-1], [np.iinfo(np.int64).min], np.array([2**63], np.uint64), [[1]], [True]):
        with pytest.raises(DataError, match="ids"):
            index.add(base[3:4], wrong)
        with pytest.raises(DataError, match="id"):
            index.remove(wrong)
    index.add(base[:0])
    index.remove([])
    assert len(index) == 3


def test_odd_queries_are_answered_or_refused(codec: Codec, base: Vectors) -> None:
    index = SearchIndex.build(codec, base[:300])
    wanted = index.search(base[:4], 5)
    assert index.search(base[:0], 5).ids.shape == (0, 5)
    asked = base[:4].astype(np.float64)
    asked.flags.writeable = False
    np.testing.assert_array_equal(index.search(asked, 5).ids, wanted.ids)
    np.testing.assert_array_equal(index.search(base[:4].astype(np.float16), 1).ids, wanted.ids[:, :1])
    whole = np.abs(base[:4] * 1000).astype(np.uint8)
    np.testing.assert_array_equal(index.search(whole, 5).ids, index.search(whole.astype(np.float32), 5).ids)
    with pytest.raises(DataError, match="NaN"):
        index.search(np.full((1, 96), np.nan), 5)
    with pytest.raises(DataError, match="zero"):
        index.search(np.zeros((1, 96)), 5)
    with pytest.raises(ParameterError, match="fewer at a time"):
        index.search(base[:4], 1 << 60)
    for M in (0, 1, 1 << 20):
        with pytest.raises(ParameterError, match="M="):
            SearchIndex.build(codec, base[:300], kind="hnsw", M=M)
    asked = index.search(base[:2], 10_000, n_candidates=1 << 40)
    assert ((asked.ids >= 0).sum(axis=1) == 300).all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("spec", ["SQ8", "PCA8,PQ4", "RaBitQ1", "AQ2", "RSQ1", "OPQ4", "Binary"])
def test_numbers_that_faiss_would_end_the_process_over_are_refused(spec: str, metric: Metric) -> None:
    rows = np.random.default_rng(0).standard_normal((400, 24)).astype(np.float32)
    for scale in (1e19, 1e30):
        with pytest.raises(DataError, match="beyond float32"):
            fit_codec(rows * np.float32(scale), spec, metric=metric)
    index = SearchIndex.build(fit_codec(rows, spec, metric=metric), rows)
    for scale in (1e19, 1e30):
        large = rows[:3] * np.float32(scale)
        for call in (
            index.search,
            index.add,
            lambda large: SearchIndex.build(index.codec, large, kind="ivf"),
        ):
            with pytest.raises((DataError, ParameterError), match=r"beyond float32|no inverted lists"):
                call(large)
    assert len(index) == 400


def test_a_fold_that_blows_numbers_up_is_refused_too() -> None:
    rows = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    blown = Encoder(np.eye(4, 8, dtype=np.float32) * np.float32(1e25), metric="l2")
    for kind in ("flat", "ivf", "hnsw"):
        made = Codec("made", SharedProjection(blown, None, "l2", 8), Floats("F32", 4))
        with pytest.raises(DataError, match="beyond float32"):
            SearchIndex.build(made, rows, kind=kind)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_what_float32_cant_tell_apart_float64_does(rng: np.random.Generator, metric: Metric) -> None:
    rows = (rng.standard_normal((300, 24)) + 1e4).astype(np.float32)
    index = SearchIndex.build(fit_codec(rows, "SQ8", metric=metric), rows, certify=True)
    for asked in (rows[:10], rows[:10] * np.float32(1.01)):
        scores = all_scores(asked, rows, metric)
        best = -np.sort(-scores, axis=1)[:, :10]
        for found in (index.search(asked, 10, n_candidates=300), index.search(asked, 10, certified=True)):
            np.testing.assert_allclose(
                -np.sort(-np.take_along_axis(scores, found.ids, 1), axis=1), best, rtol=1e-14
            )


def test_norms_beyond_float32_are_refused(codec: Codec, base: Vectors) -> None:
    large = base[:3] / np.abs(base[:3]).max(axis=1, keepdims=True) * np.float32(3e38)
    index = SearchIndex.build(codec, base[:300])
    for call in (index.search, index.add, lambda large: SearchIndex.build(codec, large)):
        with pytest.raises(DataError, match="beyond float32"):
            call(large)
    assert len(index) == 300


def test_a_base_that_turned_into_nan_is_told(codec: Codec, base: Vectors) -> None:
    held = base[:300].copy()
    index = SearchIndex.build(codec, held)
    held[:] = np.nan
    for settings in ({}, {"n_candidates": 300}):
        with pytest.raises(DataError, match="built with"):
            index.search(base[:3], 5, **settings)  # type: ignore[arg-type]
