"""Every layout that the common writers of a format make: it opens, or is refused by what it is.

`python -m tests.io.test_layouts` writes the table anew into docs/reference/layouts.md.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from nearfold.errors import FileError, NearfoldError
from nearfold.io.held import held_rows

X = (np.arange(120).reshape(12, 10) % 17 + 1).astype(np.float32)
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "layouts.md"


class Case(NamedTuple):
    """A layout of some writer: how it is made, and what comes of it."""

    writer: str
    layout: str
    ending: str
    make: Callable[[Path], object]
    says: str | None = None
    """What the refusal says; None where it opens."""
    column: str | None = None


def arrow(array: pa.Array, *, stream: bool = False) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        table = pa.table({"id": range(len(array)), "v": array})
        writer = pa.ipc.new_stream if stream else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, writer(file, table.schema) as out:
            out.write_table(table)

    return make


def parquet(array: pa.Array) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table({"id": range(len(array)), "v": array}), path)


def lists(kind: pa.DataType) -> pa.Array:
    return pa.array([row.tolist() for row in X], kind)


def hugging_face(path: Path) -> None:
    """Write as datasets' save_to_disk does: streams of 1,000 rows, and JSON beside them."""
    path.mkdir()
    features = {"info": {"features": {"v": {"feature": {"dtype": "float32"}, "_type": "List"}}}}
    for i in range(2):
        table = pa.table({"text": ["a"] * 6, "v": lists(pa.list_(pa.float32())).slice(6 * i, 6)})
        table = table.replace_schema_metadata({"huggingface": str(features)})
        name = str(path / f"data-0000{i}-of-00002.arrow")
        with pa.OSFile(name, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    (path / "dataset_info.json").write_text("{}")
    (path / "state.json").write_text("{}")


def sql(query: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        frame = pd.DataFrame({"id": range(12), "v": [row.tolist() for row in X]})
        with duckdb.connect() as connection:
            connection.register("frame", frame)
            connection.sql(f"COPY ({query}) TO '{path}' (FORMAT parquet)")

    return make


def hdf5(**datasets: np.ndarray) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, data in datasets.items():
                file[name.replace("__", "/")] = data

    return make


def nulls(row: int) -> pa.Array:
    return pa.array(
        [None if i == row else each.tolist() for i, each in enumerate(X)], pa.list_(pa.float32(), 10)
    )


def objects() -> np.ndarray:
    array = np.empty(12, object)
    array[:] = list(X)
    return array


def partitioned(path: Path) -> None:
    path.mkdir()
    for i in range(2):
        parquet(lists(pa.list_(pa.float32())).slice(6 * i, 6))(path / f"part.{i}.parquet")
    (path / "_SUCCESS").touch()


CASES = [
    Case(
        "pandas",
        "a list column, with the index",
        ".parquet",
        lambda p: pd.DataFrame({"v": list(X)}, index=[f"r{i}" for i in range(12)]).to_parquet(p),
    ),
    Case(
        "pandas",
        "one column a dimension",
        ".parquet",
        lambda p: pd.DataFrame(X, columns=[f"d{i}" for i in range(10)]).to_parquet(p),
        "one column a dimension",
    ),
    Case("pandas", "`to_feather`", ".feather", lambda p: pd.DataFrame({"v": list(X)}).to_feather(p)),
    Case(
        "pandas",
        "vectors as text",
        ".parquet",
        lambda p: pd.DataFrame({"v": [str(row.tolist()) for row in X]}).to_parquet(p),
        "'v' is text; parse it",
    ),
    Case(
        "pandas",
        "vectors as raw bytes",
        ".parquet",
        lambda p: pd.DataFrame({"v": [row.tobytes() for row in X]}).to_parquet(p),
        "'v' is raw bytes; decode",
    ),
    Case(
        "pandas", "`to_csv`", ".csv", lambda p: pd.DataFrame(X).to_csv(p), "is text, .* read it with pandas"
    ),
    Case(
        "pandas",
        "`to_json(lines=True)`",
        ".jsonl",
        lambda p: pd.DataFrame({"v": list(X)}).to_json(p, orient="records", lines=True),
        "is text",
    ),
    Case("pandas", "`to_pickle`", ".pkl", lambda p: pd.DataFrame(X).to_pickle(p), "never loads"),
    Case("polars", "List", ".parquet", lambda p: pl.DataFrame({"v": X.tolist()}).write_parquet(p)),
    Case("polars", "Array", ".parquet", lambda p: pl.DataFrame({"v": X}).write_parquet(p)),
    Case("polars", "Array", ".arrow", lambda p: pl.DataFrame({"v": X, "t": ["a"] * 12}).write_ipc(p)),
    Case(
        "polars",
        "List, zstd",
        ".arrow",
        lambda p: pl.DataFrame({"v": X.tolist()}).write_ipc(p, compression="zstd"),
    ),
    Case("polars", "`write_ipc_stream`", ".arrow", lambda p: pl.DataFrame({"v": X}).write_ipc_stream(p)),
    Case("DuckDB", "`FLOAT[]`", ".parquet", sql("SELECT id, v::FLOAT[] AS v FROM frame")),
    Case("DuckDB", "`FLOAT[10]`", ".parquet", sql("SELECT id, v::FLOAT[10] AS v FROM frame")),
    Case("DuckDB", "`STRUCT(v FLOAT[])`", ".parquet", sql("SELECT id, {'v': v::FLOAT[]} AS s FROM frame")),
    Case("Arrow", "stream", ".arrow", arrow(lists(pa.list_(pa.float32())), stream=True)),
    Case("Arrow", "file, half floats", ".arrow", arrow(lists(pa.list_(pa.float16(), 10)))),
    Case("Arrow", "file, large lists", ".arrow", arrow(lists(pa.large_list(pa.float64())))),
    Case("Arrow", "file, list views", ".arrow", arrow(lists(pa.list_view(pa.float32())))),
    Case("Arrow", "large lists", ".parquet", parquet(lists(pa.large_list(pa.float32())))),
    Case(
        "Arrow", "tensors of fixed shape", ".parquet", parquet(pa.FixedShapeTensorArray.from_numpy_ndarray(X))
    ),
    Case("Arrow", "tensors of fixed shape", ".arrow", arrow(pa.FixedShapeTensorArray.from_numpy_ndarray(X))),
    Case(
        "Arrow",
        "tensors of two dimensions",
        ".arrow",
        arrow(pa.FixedShapeTensorArray.from_numpy_ndarray(X.reshape(12, 2, 5))),
        r"'v' is tensors of shape \(2, 5\); vectors have one",
    ),
    Case(
        "Arrow",
        "lists of lists",
        ".parquet",
        parquet(pa.array([[row.tolist()] for row in X])),
        "lists of lists; vectors are one list a row",
    ),
    Case(
        "Arrow",
        "the field of a struct",
        ".parquet",
        parquet(pa.StructArray.from_arrays([lists(pa.list_(pa.float32())), pa.array(range(12))], ["a", "b"])),
        column="v.a",
    ),
    Case(
        "Arrow",
        "a row without a vector, the first",
        ".parquet",
        parquet(nulls(0)),
        r"row 0 has no vector \(null\)",
    ),
    Case(
        "Arrow",
        "a row without a vector, a later one",
        ".arrow",
        arrow(nulls(5)),
        r"row 5 has no vector \(null\)",
    ),
    Case(
        "Arrow",
        "no vector in any row",
        ".parquet",
        parquet(pa.nulls(12, pa.list_(pa.float32()))),
        r"no vector in any row \(null\)",
    ),
    Case(
        "Arrow",
        "Feather, version 2",
        ".feather",
        lambda p: pyarrow.feather.write_feather(pa.table({"v": lists(pa.list_(pa.float32()))}), p),
    ),
    Case(
        "Arrow",
        "Feather, version 1",
        ".feather",
        lambda p: p.write_bytes(b"FEA1" + bytes(60) + b"FEA1"),
        "Feather of version 1",
    ),
    Case("Hugging Face datasets", "`save_to_disk`", "", hugging_face),
    Case("Spark, Dask", "a folder x.parquet of parts", ".parquet", partitioned),
    Case(
        "ann-benchmarks",
        "train, test, neighbors",
        ".hdf5",
        hdf5(train=X, test=X[:3], neighbors=np.zeros((3, 5), "i4")),
    ),
    Case("h5py", "one dataset in a group", ".h5", hdf5(model__embeddings=X, model__ids=np.arange(12))),
    Case("h5py", "several tables", ".h5", hdf5(a=X, b=X), "several of its datasets"),
    Case("h5py", "half floats", ".h5", hdf5(train=X.astype("f2"))),
    Case(
        "NumPy",
        "float16, Fortran order, big-endian",
        ".npy",
        lambda p: np.save(p, np.asfortranarray(X.astype(">f2"))),
    ),
    Case("NumPy", "big-endian", ".npy", lambda p: np.save(p, X.astype(">f8"))),
    Case(
        "NumPy",
        "an object array",
        ".npy",
        lambda p: np.save(p, objects(), allow_pickle=True),
        r"Python objects \(pickled\)",
    ),
    Case(
        "NumPy",
        "a structured array",
        ".npy",
        lambda p: np.save(p, np.zeros(3, [("id", "i4"), ("v", "f4", 10)])),
        "structured, with the fields id, v",
    ),
    Case("NumPy", "one vector", ".npy", lambda p: np.save(p, X[0]), "has shape"),
    Case(
        "NumPy",
        "`savez_compressed`, vectors and ids",
        ".npz",
        lambda p: np.savez_compressed(p, v=X, ids=np.arange(12)),
    ),
    Case(
        "NumPy", "`savez`, several tables", ".npz", lambda p: np.savez(p, a=X, b=X), "several of its arrays"
    ),
    Case("NumPy", "`savez` of an object array", ".npz", lambda p: np.savez(p, v=objects()), "Python objects"),
    Case(
        "SciPy",
        "`save_npz`",
        ".npz",
        lambda p: scipy.sparse.save_npz(p, scipy.sparse.csr_matrix(X)),
        "sparse matrix of scipy",
    ),
    Case("torch", "`save`", ".pt", lambda p: p.write_bytes(pickle.dumps({})), "a file of torch"),
    Case(
        "any",
        "Parquet under the name of Arrow",
        ".arrow",
        parquet(lists(pa.list_(pa.float32()))),
        "is a Parquet file, though its name ends in .arrow; rename",
    ),
    Case(
        "Git LFS",
        "a pointer",
        ".npy",
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid"),
        "pointer of Git LFS",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.writer} {case.layout} {case.ending}")
def test_a_layout(case: Case, tmp_path: Path) -> None:
    path = tmp_path / f"x{case.ending}"
    case.make(path)
    if case.says is None:
        np.testing.assert_array_equal(held_rows(path, column=case.column), X)
        return
    with pytest.raises(NearfoldError, match=case.says) as told:
        held_rows(path, column=case.column)
    said = str(told.value).removeprefix(str(path))
    assert not re.search("truncated|corrupt", said)
    assert len(said) < 300
    assert "\n" not in said


def test_a_field_of_a_struct_leaves_the_others(tmp_path: Path) -> None:
    from nearfold.io.vectors import open_source

    rows = pa.StructArray.from_arrays([lists(pa.list_(pa.float32())), pa.array(range(12))], ["a", "b"])
    for path, make in ((tmp_path / "x.parquet", parquet), (tmp_path / "x.arrow", arrow)):
        make(rows)(path)
        source = open_source(path, "v.a")
        assert source.layout.others.names == ["id", "v"]
        (chunk,) = source.chunks(100)
        assert chunk.others["v"].to_pylist()[3] == {"b": 3}
        assert chunk.others.schema.equals(source.layout.others)
    with pytest.raises(FileError, match=r"'v' is a struct of a, b; name its field"):
        open_source(tmp_path / "x.parquet", "v")


def page() -> str:
    """Return the table as the documentation shows it; the refusals in full, as they are said."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for i, case in enumerate(CASES):
            path = Path(folder) / str(i) / f"x{case.ending}"
            path.parent.mkdir()
            case.make(path)
            said = "opens" if case.column is None else f"opens, with `--column {case.column}`"
            try:
                held_rows(path, column=case.column)
            except NearfoldError as error:
                said = (
                    str(error).removeprefix(f"{path}").lstrip(": ").replace("|", "\\|").replace("<", "&lt;")
                )
            lines.append(f"| {case.writer} | {case.layout} | `{case.ending or 'folder'}` | {said} |")
    return "\n".join(lines)


def test_the_page_shows_the_table() -> None:
    shown = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "writer" not in line]
    assert [line.rsplit(" | ", 1)[0] for line in shown] == [
        f"| {case.writer} | {case.layout} | `{case.ending or 'folder'}`" for case in CASES
    ]
    for line, case in zip(shown, CASES, strict=True):
        assert line.rsplit(" | ", 1)[1].startswith("opens") == (case.says is None)


if __name__ == "__main__":
    head = (
        "# Layouts\n\nWhat the common writers make, and what nearfold does with it. Each line is tried in "
        "the tests by the writer itself\n(Hugging Face's, Spark's and torch's are made after theirs). What "
        "is refused is refused in these words.\n\n"
    )
    PAGE.write_text(head + "| writer | layout | ending | |\n|---|---|---|---|\n" + page() + "\n")
