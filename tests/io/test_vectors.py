"""Every format: what is written comes back, what is broken is refused by name."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfold.errors import FileError, NearfoldError
from nearfold.io.base import Chunk, Layout
from nearfold.io.held import held_rows
from nearfold.io.vectors import open_sink, open_source

# Formats that hold numbers of any type.
GENERAL = (".npy", ".npz", ".parquet", ".arrow")

X = (np.arange(60).reshape(12, 5) % 17).astype(np.float32)


def write(path: Path, vectors: np.ndarray = X) -> Path:
    layout = Layout(len(vectors), vectors.shape[1], vectors.dtype, "vectors")
    with open_sink(path, layout) as sink:
        for start in range(0, len(vectors), 5):
            sink.write(Chunk(vectors[start : start + 5]))
    return path


@pytest.mark.parametrize("suffix", GENERAL)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_round_trip(suffix: str, dtype: type, tmp_path: Path) -> None:
    path = write(tmp_path / f"x{suffix}", X.astype(dtype))
    source = open_source(path)
    assert source.layout[:3] == (12, 5, np.dtype(dtype))
    np.testing.assert_array_equal(np.concatenate([c.vectors for c in source.chunks(7)]), X)
    back = held_rows(path)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, X)


@pytest.mark.parametrize("suffix", GENERAL)
def test_same_vectors_make_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    first, second = write(tmp_path / f"a{suffix}"), write(tmp_path / f"b{suffix}")
    assert first.read_bytes() == second.read_bytes()


def test_numpy_reads_what_we_write(tmp_path: Path) -> None:
    np.testing.assert_array_equal(np.load(write(tmp_path / "x.npy")), X)
    np.testing.assert_array_equal(np.load(write(tmp_path / "x.npz"))["vectors"], X)


@pytest.mark.parametrize("suffix", GENERAL)
def test_truncated_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"x{suffix}")
    whole = path.read_bytes()
    for size in (0, 1, 5, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(NearfoldError, match=rf"x\{suffix}"):
            held_rows(path)


@pytest.mark.parametrize("suffix", GENERAL)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_mutated_files_raise_only_our_error(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("mutant") / f"x{suffix}")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(NearfoldError):
        held_rows(path)


@pytest.mark.parametrize("suffix", GENERAL)
def test_bad_paths(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="can't be read"):
        open_source(tmp_path / f"missing{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(FileError, match="a folder without a readable file"):
        open_source(tmp_path / f"folder{suffix}")
    with pytest.raises(FileError, match=r"no/x\."):
        write(tmp_path / "no" / f"x{suffix}")
    with pytest.raises(FileError, match="format"):
        open_source(tmp_path / "x.vectors")
    (tmp_path / f"text{suffix}").write_text("not vectors at all")
    with pytest.raises(FileError, match="text"):
        open_source(tmp_path / f"text{suffix}")


@pytest.mark.parametrize("suffix", GENERAL)
def test_a_failure_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    layout = Layout(12, 5, np.dtype(np.float32), "vectors")

    def fail() -> None:
        with open_sink(path, layout) as sink:
            sink.write(Chunk(X[:5]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    for name, save in (("x.npy", np.save), ("x.npz", lambda p, a: np.savez(p, a=a))):
        save(tmp_path / name, np.array([[{}]], dtype=object))
        with pytest.raises(FileError, match=r"x\.np"):
            held_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(5, np.float32), "shape"),
        (np.zeros((0, 5), np.float32), "empty|truncated"),
        (np.array([["a"]]), "no real numbers"),
        (np.array([[1j]]), "no real numbers"),
        (np.array([[1, 2], [np.nan, 1]], np.float32), "row 1, column 0"),
    ],
)
def test_bad_arrays(array: np.ndarray, says: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(NearfoldError, match=says):
        held_rows(tmp_path / "x.npy")


def test_npz_with_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X, b=X + 1, ids=np.arange(12))
    with pytest.raises(FileError, match="--column"):
        held_rows(tmp_path / "x.npz")
    np.testing.assert_array_equal(held_rows(tmp_path / "x.npz", column="b"), X + 1)
    with pytest.raises(FileError, match="has no array 'c'; it has a, b, ids"):
        held_rows(tmp_path / "x.npz", column="c")
    with pytest.raises(FileError, match="shape"):
        held_rows(tmp_path / "x.npz", column="ids")
    with pytest.raises(FileError, match="no columns"):
        held_rows(write(tmp_path / "x.npy"), column="a")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 5)]
)
def test_parquet_list_types(kind: pa.DataType, tmp_path: Path) -> None:
    column = pa.array([list(row.astype(kind.value_type.to_pandas_dtype())) for row in X], kind)
    table = pa.table({"id": pa.array(range(12)), "v": column, "tags": pa.array([["a"]] * 12)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=5)
    np.testing.assert_array_equal(held_rows(tmp_path / "x.parquet"), X)
    assert open_source(tmp_path / "x.parquet").layout.others.names == ["id", "tags"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[1.0, 2.0], [3.0]], "row 1 has 1 dimensions where the first row has 2"),
        ([[1.0, 2.0], None], "row 1 has no vector"),
        ([[1.0, 2.0], [3.0, None]], "row 1, dimension 1 is null"),
        ([[1.0, 2.0], [3.0, float("nan")]], "row 1, column 1"),
        ([], "empty"),
        ([[], []], "empty|promises"),
    ],
)
def test_bad_parquet_rows(rows: list[object], says: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": pa.array(rows, pa.list_(pa.float32()))}), tmp_path / "x.parquet")
    with pytest.raises(NearfoldError, match=says):
        held_rows(tmp_path / "x.parquet")


def test_parquet_columns(tmp_path: Path) -> None:
    two = pa.array(list(X), pa.list_(pa.float32()))
    pq.write_table(pa.table({"a": two, "b": two, "id": pa.array(range(12))}), tmp_path / "x.parquet")
    with pytest.raises(FileError, match="several columns"):
        held_rows(tmp_path / "x.parquet")
    assert held_rows(tmp_path / "x.parquet", column="a").shape == (12, 5)
    with pytest.raises(FileError, match="'id' is int64"):
        held_rows(tmp_path / "x.parquet", column="id")
    with pytest.raises(FileError, match="has no column 'c'"):
        held_rows(tmp_path / "x.parquet", column="c")
    pq.write_table(pa.table({"id": pa.array(range(12))}), tmp_path / "y.parquet")
    with pytest.raises(FileError, match="no column is a list"):
        held_rows(tmp_path / "y.parquet")


def test_parquet_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    """A fixed size that the values can't fill: nulls here, a forged footer elsewhere."""
    column = pa.nulls(3, pa.list_(pa.float32(), 500_000))
    pq.write_table(pa.table({"v": column}), tmp_path / "x.parquet")
    with pytest.raises(FileError, match="promises 3 vectors of 500000 dimensions and holds 3 numbers"):
        open_source(tmp_path / "x.parquet")
