"""Folders whose files have different columns beside the vectors, folded into one file."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import Encoder
from nearfold.bulk.apply import apply
from nearfold.errors import FileError, NearfoldWarning
from nearfold.io.columns import columns_as
from nearfold.io.vectors import open_source

ENCODER = Encoder(np.eye(2, 4, dtype=np.float32))
DAY = dt.datetime(2026, 1, 2, 3, 4, 5)


def made(path: Path, rows: int = 3, **columns: Any) -> None:
    vectors = pa.array([[1.0, 2.0, 3.0, 4.0]] * rows, pa.list_(pa.float32()))
    pq.write_table(pa.table({"emb": vectors, **columns}), path, store_schema=True)


def both(folder: Path, first: Any, second: Any, out: str = "o.parquet") -> pa.Table:
    (folder / "in").mkdir()
    made(folder / "in" / "0.parquet", len(first), c=first)
    made(folder / "in" / "1.parquet", len(second), c=second)
    apply(ENCODER, open_source(folder / "in"), folder / out)
    if out.endswith("parquet"):
        return pq.read_table(folder / out)
    return pa.ipc.open_file(folder / out).read_all()


WORDS = pa.array(["a", "b", "a"])
UNIFIED: dict[str, tuple[pa.Array, pa.Array, pa.DataType]] = {
    "narrow and wide integers": (pa.array([1, 2], pa.int32()), pa.array([2**40], pa.int64()), pa.int64()),
    "wide first": (pa.array([2**40], pa.int64()), pa.array([1], pa.int8()), pa.int64()),
    "floats": (pa.array([0.5], pa.float32()), pa.array([0.1], pa.float64()), pa.float64()),
    "integers and floats": (pa.array([7], pa.int64()), pa.array([0.5], pa.float32()), pa.float64()),
    "nulls first": (pa.nulls(2), WORDS, pa.string()),
    "nulls behind": (WORDS, pa.nulls(2), pa.string()),
    "nulls and categories": (pa.nulls(2), WORDS.dictionary_encode(), WORDS.dictionary_encode().type),
    "text of two sizes": (WORDS, pa.array(["c"], pa.large_string()), pa.large_string()),
    "categories and text": (WORDS.dictionary_encode(), WORDS, pa.string()),
    "text and categories": (WORDS, WORDS.dictionary_encode(), pa.string()),
    "times of two units": (
        pa.array([DAY], pa.timestamp("ms")),
        pa.array([DAY], pa.timestamp("us")),
        pa.timestamp("us"),
    ),
    "lists": (pa.array([["a"]]), pa.array([["b"]], pa.large_list(pa.string())), pa.large_list(pa.string())),
    "structs": (
        pa.array([{"x": 1}, None], pa.struct([("x", pa.int32())])),
        pa.array([{"x": 2, "y": "b"}], pa.struct([("x", pa.int64()), ("y", pa.string())])),
        pa.struct([("x", pa.int64()), ("y", pa.string())]),
    ),
    "decimals": (
        pa.array([Decimal("1.5")], pa.decimal128(4, 1)),
        pa.array([Decimal("2.25")], pa.decimal128(9, 2)),
        pa.decimal128(9, 2),
    ),
}


def plain(values: list[Any]) -> list[Any]:
    """Return structs with the fields that Arrow fills left out where they are null."""
    return [{k: x for k, x in v.items() if x is not None} if isinstance(v, dict) else v for v in values]


@pytest.mark.parametrize("name", UNIFIED)
def test_types_are_widened_and_no_value_is_lost(name: str, tmp_path: Path) -> None:
    first, second, kind = UNIFIED[name]
    column = both(tmp_path, first, second).column("c")
    assert column.type == kind
    assert plain(column.to_pylist()) == plain(first.to_pylist() + second.to_pylist())


CONFLICTS: dict[str, tuple[pa.Array, pa.Array]] = {
    "numbers and text": (pa.array([1]), pa.array(["2"])),
    "text and numbers": (pa.array(["2"]), pa.array([1])),
    "truth and numbers": (pa.array([True]), pa.array([2])),
    "times with and without a zone": (
        pa.array([DAY], pa.timestamp("us")),
        pa.array([DAY], pa.timestamp("us", "UTC")),
    ),
    "decimals and floats": (pa.array([Decimal("1.5")]), pa.array([0.1])),
    "text and a list": (pa.array(["a"]), pa.array([["a"]])),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_types_that_conflict_are_refused_by_file_and_column(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"in/1\.parquet: column 'c' is .* where it is .* in .*0\.parquet"):
        both(tmp_path, *CONFLICTS[name])
    assert not (tmp_path / "o.parquet").exists()
    # Whoever doesn't write the columns isn't held up by them; in a folder each file keeps its own.
    with pytest.warns(NearfoldWarning, match="left out"):
        apply(ENCODER, open_source(tmp_path / "in"), tmp_path / "o.npy")
    assert apply(ENCODER, tmp_path / "in", tmp_path / "out").rows == 2
    for file, column in zip(("0.parquet", "1.parquet"), CONFLICTS[name], strict=True):
        assert pq.read_table(tmp_path / "out" / file).column("c").to_pylist() == column.to_pylist()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([2**63], pa.uint64()), pa.array([1], pa.int64())),
        (pa.array([2**60 + 1]), pa.array([0.5])),
        (pa.array([dt.datetime(9999, 1, 1)], pa.timestamp("us")), pa.array([1], pa.timestamp("ns"))),
    ],
)
def test_values_that_the_wider_type_has_not_are_refused(
    first: pa.Array, second: pa.Array, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=r"0\.parquet: column 'c' can't be made"):
        both(tmp_path, first, second)
    assert not (tmp_path / "o.parquet").exists()


@pytest.mark.parametrize("out", ["o.parquet", "o.arrow"])
def test_columns_that_some_files_lack_are_null_there(out: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    made(tmp_path / "in" / "0.parquet", id=[1, 2, 3], words=WORDS.dictionary_encode())
    np.save(tmp_path / "in" / "1.npy", np.ones((2, 4), np.float32))
    made(tmp_path / "in" / "2.parquet", url=["u", "v", "w"], id=pa.array([4, 5, 6], pa.int16()))
    made(tmp_path / "in" / "3.parquet", words=pa.array(["x", "y", "z"]).dictionary_encode())
    source = open_source(tmp_path / "in")
    apply(ENCODER, source, tmp_path / out)
    table = (
        pq.read_table(tmp_path / out)
        if out.endswith("parquet")
        else pa.ipc.open_file(tmp_path / out).read_all()
    )
    assert table.column_names == ["emb", "id", "words", "url"]
    assert table.column("id").to_pylist() == [1, 2, 3, None, None, 4, 5, 6, None, None, None]
    assert table.column("words").to_pylist() == ["a", "b", "a", *[None] * 5, "x", "y", "z"]
    assert table.column("url").to_pylist() == [*[None] * 5, "u", "v", "w", *[None] * 3]
    assert table.schema.field("id").type == pa.int64()
    read = pa.concat_tables(chunk.others for chunk in source.chunks(2))
    assert read.column("id").to_pylist() == table.column("id").to_pylist()


def test_columns_that_must_not_be_null_may_be_where_a_file_lacks_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    vectors = pa.array([[1.0] * 4], pa.list_(pa.float32()))
    schema = pa.schema([pa.field("emb", vectors.type), pa.field("id", pa.int64(), nullable=False)])
    pq.write_table(pa.table([vectors, pa.array([5])], schema=schema), tmp_path / "in" / "a.parquet")
    made(tmp_path / "in" / "b.parquet", 1)
    apply(ENCODER, open_source(tmp_path / "in"), tmp_path / "o.parquet")
    assert pq.read_table(tmp_path / "o.parquet").column("id").to_pylist() == [5, None]


def test_a_column_with_the_name_of_the_vectors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    made(tmp_path / "in" / "0.parquet")
    table = pa.table({"vec": pa.array([[1.0] * 4]), "emb": ["text"]})
    pq.write_table(table, tmp_path / "in" / "1.parquet")
    with pytest.raises(FileError, match=r"1\.parquet: column 'emb' has the name of the vectors"):
        apply(ENCODER, open_source(tmp_path / "in"), tmp_path / "o.parquet")


def test_a_folder_keeps_columns_though_its_first_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "0.npy", np.ones((2, 4), np.float32))
    made(tmp_path / "in" / "1.parquet", id=[1, 2, 3])
    apply(ENCODER, tmp_path / "in", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "1.parquet").column("id").to_pylist() == [1, 2, 3]
    with pytest.warns(NearfoldWarning, match="the columns id"):
        apply(ENCODER, tmp_path / "in", tmp_path / "npy", format="npy")


def test_a_column_that_changed_since_the_folder_was_opened_is_refused() -> None:
    schema = pa.schema([pa.field("id", pa.int64())])
    with pytest.raises(FileError, match=r"a\.parquet: column 'id' is string"):
        columns_as(pa.table({"id": ["1"]}), 1, schema, "a.parquet")


def test_an_output_among_the_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "elsewhere.npy", np.ones((2, 4), np.float32))
    (tmp_path / "in" / "0.npy").symlink_to(tmp_path / "elsewhere.npy")
    np.save(tmp_path / "in" / "1.npy", np.ones((2, 4), np.float32))
    for out in (tmp_path / "elsewhere.npy", tmp_path / "in" / "1.npy", tmp_path / "in" / "0.npy"):
        before = out.read_bytes()
        with pytest.raises(FileError, match="the input"):
            apply(ENCODER, open_source(tmp_path / "in"), out)
        assert out.read_bytes() == before
