"""Tables of Arrow and Parquet: nothing is believed that points elsewhere, and memory stays bounded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold.errors import FileError, NearfoldError
from nearfold.io import ipc_index
from nearfold.io.held import held_rows
from nearfold.io.vectors import open_source

X = (np.arange(160).reshape(32, 5) % 17 + 1).astype(np.float32)


def vectors(rows: np.ndarray = X) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def save(
    path: Path, table: pa.Table, rows: int = 10, *, stream: bool = False, packed: str | None = None
) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=packed)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, make(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("packed", [None, "lz4", "zstd"])
def test_files_and_streams(stream: bool, packed: str | None, tmp_path: Path) -> None:
    words = pa.array([f"word {i % 3}" for i in range(32)]).dictionary_encode()
    table = pa.table({"id": range(32), "v": vectors(), "word": words})
    source = open_source(save(tmp_path / "x.arrow", table, stream=stream, packed=packed))
    assert source.layout.rows == 32
    assert source.pieces(15) == [(0, 10), (10, 20), (20, 32)]
    chunks = list(source.chunks(7, 8, 27))
    np.testing.assert_array_equal(np.concatenate([c.vectors for c in chunks]), X[8:27])
    got = pa.concat_tables([c.others for c in chunks])
    assert got.equals(table.select(["id", "word"]).slice(8, 19))
    np.testing.assert_array_equal(source.take(np.array([0, 9, 10, 31])), X[[0, 9, 10, 31]])


def test_dictionaries_that_are_replaced_in_a_stream(tmp_path: Path) -> None:
    tables = [
        pa.table(
            {
                "v": vectors(X[i : i + 8]),
                "w": pa.array([f"{i} {k % 2}" for k in range(8)]).dictionary_encode(),
            }
        )
        for i in range(0, 32, 8)
    ]
    with (
        pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file,
        pa.ipc.new_stream(file, tables[0].schema) as writer,
    ):
        for table in tables:
            writer.write_table(table)
    source = open_source(tmp_path / "x.arrow")
    words = [w for c in source.chunks(5, 10) for w in c.others["w"].to_pylist()]
    assert words == [w for table in tables for w in table["w"].to_pylist()][10:]


def text(offsets: list[int]) -> pa.Array:
    content = np.array(offsets + [80] * (33 - len(offsets)), "<i4")
    return pa.StringArray.from_buffers(32, pa.py_buffer(content), pa.py_buffer(b"x" * 80))


def coded(index: int) -> pa.Array:
    indices = pa.py_buffer(np.array([0, index] * 16, "<i4"))
    kind = pa.dictionary(pa.int32(), pa.string())
    return pa.DictionaryArray.from_buffers(kind, 32, [None, indices], pa.array(["a", "b"]))


HOSTILE: dict[str, Callable[[], pa.Array]] = {
    "offsets beyond": lambda: text([0, 70_000]),
    "offsets negative": lambda: text([0, -5]),
    "offsets falling": lambda: text([0, 40, 20]),
    "no text": lambda: pa.StringArray.from_buffers(
        32, pa.py_buffer(np.arange(33, dtype="<i4")), pa.py_buffer(b"\xff" * 40)
    ),
    "index beyond": lambda: coded(900),
    "index negative": lambda: coded(-3),
    "index beyond, in a struct": lambda: pa.StructArray.from_arrays([coded(900)], ["word"]),
    "index beyond, in lists": lambda: pa.ListArray.from_arrays(
        pa.array(range(33), pa.int32()), coded(1 << 28)
    ),
    "offsets beyond, in a struct": lambda: pa.StructArray.from_arrays([text([0, 1 << 30])], ["t"]),
    "view beyond": lambda: pa.Array.from_buffers(
        pa.string_view(),
        32,
        [None, pa.py_buffer(np.array([[100, 0, 9, 0]] * 32, "<i4")), pa.py_buffer(b"abc")],
    ),
    "union of a type that is not there": lambda: pa.Array.from_buffers(
        pa.sparse_union([pa.field("a", pa.int8())]),
        32,
        [None, pa.py_buffer(bytes([9] * 32))],
        children=[pa.array([1] * 32, pa.int8())],
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_points_out_of_its_buffers_is_refused(kind: str, stream: bool, tmp_path: Path) -> None:
    for packed in (None, "zstd"):
        table = pa.table({"v": vectors(), "other": HOSTILE[kind]()})
        path = save(tmp_path / "x.arrow", table, 100, stream=stream, packed=packed)
        with pytest.raises(FileError, match=r"x\.arrow: (column 'other' is damaged|truncated or damaged)"):
            list(open_source(path).chunks(8))


def test_vectors_that_point_out_of_their_buffers_are_refused(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 5, 10, 1 << 28, 5], "<i4"))
    lists = pa.Array.from_buffers(pa.list_(pa.float32()), 4, [None, offsets], children=[pa.array(X.ravel())])
    with pytest.raises(NearfoldError, match=r"x\.arrow"):
        held_rows(save(tmp_path / "x.arrow", pa.table({"v": lists}), 100))


def memory_of(script: str, *arguments: object) -> int:
    """Return by how many MB a process grew that runs a script, which must end well."""
    grown = "import resource, sys, pyarrow.parquet, nearfold.io.vectors; from nearfold import open_source\n"
    grown += "resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))\n"
    grown += "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n" + script
    grown += "\nprint((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)"
    command = [sys.executable, "-c", grown, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split()[-1])


def test_a_packed_file_is_not_unpacked_to_be_opened(tmp_path: Path) -> None:
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(100 << 20, np.float32)), 4096)
    path = save(tmp_path / "x.arrow", pa.table({"v": zeros}), 1 << 30, packed="zstd")
    assert path.stat().st_size < 200_000
    with pytest.raises(FileError, match="unpacks to 419 MB"):
        open_source(path)
    script = "try: open_source(sys.argv[1])\nexcept Exception as error: pass"
    assert memory_of(script, path) < 100
    # In batches that can be held it is a file like others.
    few = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(1 << 20, np.float32)), 4096)
    path = save(tmp_path / "y.arrow", pa.table({"v": few}), 100, packed="zstd")
    assert held_rows(path).shape == (256, 4096)


def test_sizes_that_a_batch_promises_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.arrow", pa.table({"v": vectors()}), packed="lz4")
    monkeypatch.setattr(ipc_index, "HELD_BYTES", 10)
    monkeypatch.setattr(ipc_index, "_PLAUSIBLE", 0)
    with pytest.raises(FileError, match="unpacks to 0 MB"):
        open_source(path)


def test_chunks_are_cut_by_the_bytes_of_all_columns(tmp_path: Path) -> None:
    """Long texts that a dictionary stores once, behind short ones: of 150 MB little is held at once."""
    texts = ["short"] * 3000 + ["lorem ipsum " * 80_000] * 150
    rows = np.ones((len(texts), 5), np.float32)
    pq.write_table(pa.table({"v": vectors(rows), "t": texts}), tmp_path / "x.parquet", row_group_size=10_000)
    assert (tmp_path / "x.parquet").stat().st_size < 5_000_000
    script = "print(sum(len(c.vectors) for c in open_source(sys.argv[1]).chunks(100_000)))"
    assert memory_of(script, tmp_path / "x.parquet") < 90


def test_rows_are_cut_where_they_are_large(tmp_path: Path) -> None:
    texts = [("y" if i % 100 else "z" * 3_000_000) for i in range(600)]
    table = pa.table({"v": vectors(np.ones((600, 5), np.float32)), "t": texts})
    pq.write_table(table, tmp_path / "x.parquet")
    for path in (tmp_path / "x.parquet", save(tmp_path / "x.arrow", table, 1000)):
        chunks = list(open_source(path).chunks(1000))
        assert max(chunk.others.nbytes for chunk in chunks) < 9_000_000
        assert pa.concat_tables([c.others for c in chunks]).equals(table.select(["t"]))
