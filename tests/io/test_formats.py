"""Formats of one type of number, formats of other libraries, folders and URLs."""

from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfold.errors import FileError, MissingExtraError, NearfoldError
from nearfold.io.base import Chunk, Layout, Source, grouped_pieces
from nearfold.io.held import held_rows
from nearfold.io.vectors import open_sink, open_source

X = (np.arange(350).reshape(70, 5) % 17).astype(np.float32)
OTHERS = {".fvecs": np.float32, ".bvecs": np.uint8, ".ivecs": np.int32}


def vectors_table(rows: np.ndarray, start: int = 0) -> pa.Table:
    kind = pa.list_(pa.float32(), rows.shape[1])
    return pa.table({"id": range(start, start + len(rows)), "v": pa.array(list(rows), kind)})


def written(kind: str, folder: Path) -> Path:
    """Write X in some format, in pieces where it has such."""
    path = folder / f"x{kind}"
    if kind == ".npy":
        np.save(path, X)
    elif kind == ".npy in Fortran order":
        path = folder / "fortran.npy"
        np.save(path, np.asfortranarray(X))
    elif kind == ".parquet":
        pq.write_table(vectors_table(X), path, row_group_size=13)
    elif kind in (".arrow", ".feather"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, vectors_table(X).schema) as writer:
            for start in range(0, 70, 13):
                writer.write_table(vectors_table(X[start : start + 13], start))
    elif kind in OTHERS:
        layout = Layout(70, 5, np.dtype(OTHERS[kind]), "vectors")
        with open_sink(path, layout) as sink:
            sink.write(Chunk(X[:30].astype(OTHERS[kind])))
            sink.write(Chunk(X[30:].astype(OTHERS[kind])))
    elif kind in (".hdf5", ".h5"):
        with h5py.File(path, "w") as file:
            file["train"], file["test"] = X, X[:3] + 1
            file.create_dataset("neighbors", data=np.zeros((3, 10), np.int32))
    elif kind == ".lance":
        lance.write_dataset(vectors_table(X), path)
    else:
        path.mkdir()
        np.save(path / "a.npy", X[:11])
        pq.write_table(vectors_table(X[11:40]), path / "b.parquet", row_group_size=7)
        (path / "sub").mkdir()
        np.save(path / "c.npy", X[40:45])
        np.save(path / "sub" / "d.npy", X[45:])
        (path / "_SUCCESS").write_text("")
        (path / ".hidden.npy").write_text("")
        (path / "notes.txt").write_text("not data")
    return path


KINDS = [
    ".npy",
    ".npy in Fortran order",
    ".parquet",
    ".arrow",
    ".feather",
    *OTHERS,
    ".hdf5",
    ".h5",
    ".lance",
    " a folder",
]


@pytest.fixture(params=KINDS, scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(written(request.param, tmp_path_factory.mktemp("formats")))


@given(bounds=st.tuples(st.integers(0, 70), st.integers(0, 70)), rows=st.integers(1, 80))
@settings(deadline=None, max_examples=25)
def test_any_rows_in_any_chunks(source: Source, bounds: tuple[int, int], rows: int) -> None:
    start, stop = sorted(bounds)
    chunks = [c.vectors for c in source.chunks(rows, start, stop, others=False)]
    np.testing.assert_array_equal(np.concatenate([X[:0], *chunks]), X[start:stop])
    assert all(len(chunk) <= rows for chunk in chunks)


@given(rows=st.sets(st.integers(0, 69)))
@settings(deadline=None, max_examples=25)
def test_rows_by_number(source: Source, rows: set[int]) -> None:
    wanted = np.array(sorted(rows), np.int64)
    np.testing.assert_array_equal(source.take(wanted), X[wanted])


@given(rows=st.integers(1, 100))
@settings(deadline=None, max_examples=25)
def test_pieces_are_all_rows_in_order(source: Source, rows: int) -> None:
    numbers: list[int] = []
    for part in source.parts:
        first = len(numbers)
        for start, stop in part.pieces(rows):
            assert start < stop
            numbers.extend(range(first + start, first + stop))
    assert numbers == list(range(70))


def test_layout(source: Source) -> None:
    assert (source.layout.rows, source.layout.n_features) == (70, 5)
    np.testing.assert_array_equal(held_rows(source.path), X)


def test_pieces_end_where_groups_do() -> None:
    assert grouped_pieces(np.array([0, 13, 26, 39, 52, 65, 70]), 30) == [(0, 26), (26, 52), (52, 70)]
    assert grouped_pieces(np.array([0, 13, 26]), 1) == [(0, 13), (13, 26)]
    assert grouped_pieces(np.array([0, 0, 13, 13]), 50) == [(0, 13)]


@pytest.mark.parametrize("kind", [".parquet", ".arrow", ".lance"])
def test_other_columns_ride_along(kind: str, tmp_path: Path) -> None:
    source = open_source(written(kind, tmp_path))
    assert source.layout.others.names == ["id"]
    ids = [i for c in source.chunks(9, 5, 60) for i in c.others.column("id").to_pylist()]
    assert ids == list(range(5, 60))


@pytest.mark.parametrize("kind", [*OTHERS, ".arrow", ".npy"])
def test_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    whole = path.read_bytes()
    for size in (0, 1, 3, len(whole) // 2 - 1, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(NearfoldError, match=rf"x\{kind}"):
            held_rows(path)


def test_truncated_hdf5_is_refused(tmp_path: Path) -> None:
    path = written(".hdf5", tmp_path)
    whole = path.read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match=r"x\.hdf5"):
            held_rows(path)


def test_damaged_lance_is_refused(tmp_path: Path) -> None:
    path = written(".lance", tmp_path)
    for part in path.rglob("*.lance"):
        part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(FileError, match=r"x\.lance: truncated"):
        held_rows(path)


def test_rows_of_another_width_are_named(tmp_path: Path) -> None:
    path = written(".fvecs", tmp_path)
    content = bytearray(path.read_bytes())
    content[24 * 41 : 24 * 41 + 4] = np.int32(6).tobytes()
    path.write_bytes(content)
    with pytest.raises(FileError, match="row 41 says it has 6 dimensions"):
        held_rows(path)
    with pytest.raises(FileError, match="row 41"):
        open_source(path).take(np.array([41]))
    with (
        pytest.raises(FileError, match=r"holds float32, not float16"),
        open_sink(path, Layout(1, 5, np.dtype(np.float16), "v")),
    ):
        pass


def test_hdf5_datasets(tmp_path: Path) -> None:
    path = written(".hdf5", tmp_path)
    np.testing.assert_array_equal(held_rows(path, column="test"), X[:3] + 1)
    with pytest.raises(FileError, match="has no dataset 'tests'"):
        open_source(path, "tests")
    with (
        pytest.raises(FileError, match="can be read, not written"),
        open_sink(path, Layout(1, 5, np.dtype(np.float32), "v")),
    ):
        pass
    with h5py.File(tmp_path / "two.hdf5", "w") as file:
        file["a"], file["b"] = X, X
        file.create_dataset("promise", shape=(10**9, 10**4), dtype="f4", chunks=(10, 10))
    with pytest.raises(FileError, match="--column"):
        open_source(tmp_path / "two.hdf5")
    with pytest.raises(FileError, match="promises 40000000000000 bytes and holds 0"):
        open_source(tmp_path / "two.hdf5", "promise")


def test_headers_that_promise_too_much(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "y.npy").write_bytes(content.replace(b"(70, 5)", b"(99, 5)"))
    with pytest.raises(FileError, match=r"promises .* bytes, it has"):
        open_source(tmp_path / "y.npy")


def test_folders(tmp_path: Path) -> None:
    folder = written(" a folder", tmp_path)
    assert [Path(part.path).name for part in open_source(folder).parts] == [
        "a.npy",
        "b.parquet",
        "c.npy",
        "d.npy",
    ]
    (folder / "broken.parquet").write_text("no")
    with pytest.raises(FileError, match=r"broken\.parquet"):
        open_source(folder)
    bad: list[str] = []
    assert open_source(folder, on_bad=lambda name, _error: bad.append(name)).layout.rows == 70
    assert [Path(name).name for name in bad] == ["broken.parquet"]
    (folder / "broken.parquet").unlink()
    np.save(folder / "narrow.npy", X[:, :3])
    with pytest.raises(FileError, match="3 dimensions where"):
        open_source(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="without a readable file"):
        open_source(tmp_path / "empty")


@pytest.mark.parametrize("kind", [".npy", ".parquet", ".arrow", ".fvecs", ".hdf5", " a folder"])
def test_urls(kind: str, tmp_path: Path) -> None:
    local = written(kind, tmp_path)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    if local.is_dir():
        for path in local.rglob("*"):
            if path.is_file():
                memory.pipe(f"/bucket/data/{path.relative_to(local)}", path.read_bytes())
        url = "memory://bucket/data"
    else:
        memory.pipe(f"/bucket/x{kind}", local.read_bytes())
        url = f"memory://bucket/x{kind}"
    source = open_source(url)
    np.testing.assert_array_equal(np.concatenate([c.vectors for c in source.chunks(9, 3, 66)]), X[3:66])
    np.testing.assert_array_equal(source.take(np.array([0, 50, 69])), X[[0, 50, 69]])
    np.testing.assert_array_equal(held_rows(f"file://{local}"), X)


def test_bad_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").store.clear()
    with pytest.raises(FileError, match=r"memory://no/x\.npy: can't be read"):
        open_source("memory://no/x.npy")
    with pytest.raises(FileError, match="can't be opened"):
        open_source("nosuch://x.npy")
    monkeypatch.setattr("nearfold._utils.extras.importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"nearfold\[remote\]"):
        open_source("memory://x.npy")
    with pytest.raises(MissingExtraError, match=r"nearfold\[hdf5\]"):
        open_source(written(".hdf5", tmp_path))


def open_files() -> int:
    table = Path("/proc/self/fd")
    return len(list(table.iterdir())) if table.exists() else 0


def test_files_are_closed(tmp_path: Path) -> None:
    sources = [open_source(written(kind, tmp_path)) for kind in (".npy", ".parquet", ".arrow", ".hdf5")]
    before = open_files()
    for source in sources:
        next(iter(source.chunks(5)))
        source.take(np.array([1, 69]))
    assert open_files() == before


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_that_is_there_twice_is_refused(suffix: str, tmp_path: Path) -> None:
    vectors = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2))
    table = pa.Table.from_arrays([vectors, pa.array([1, 2, 3])], names=["v", "v"])
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(FileError, match="column 'v' is there twice"):
        open_source(path)
