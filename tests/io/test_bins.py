"""fbin, u8bin and i8bin."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from nearfold.errors import FileError
from nearfold.io.base import Chunk, Layout
from nearfold.io.vectors import open_sink, open_source

KINDS = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1"}


@pytest.mark.parametrize("suffix", KINDS)
def test_rows_come_back(suffix: str, tmp_path: Path) -> None:
    X = np.arange(21).reshape(7, 3).astype(KINDS[suffix])
    with open_sink(tmp_path / f"x{suffix}", Layout(7, 3, X.dtype, "vectors")) as sink:
        sink.write(Chunk(X[:4]))
        sink.write(Chunk(X[4:]))
    assert (tmp_path / f"x{suffix}").read_bytes() == struct.pack("<II", 7, 3) + X.tobytes()
    source = open_source(tmp_path / f"x{suffix}")
    assert (source.layout.rows, source.layout.n_features, source.layout.dtype) == (7, 3, X.dtype)
    np.testing.assert_array_equal(np.concatenate([c.vectors for c in source.chunks(2, 1, 6)]), X[1:6])
    np.testing.assert_array_equal(source.take(np.array([0, 6])), X[[0, 6]])


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.fbin"
    for content in (
        b"\x01",
        struct.pack("<II", 7, 3),
        struct.pack("<II", 1, 1) + bytes(5),
        struct.pack("<II", 0, 0),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError):
            open_source(path)
    path.write_bytes(struct.pack("<IIf", 1, 1, 1.0))
    with pytest.raises(FileError, match="no columns"):
        open_source(path, "v")
    with (
        pytest.raises(FileError, match="holds uint8, not float32"),
        open_sink(tmp_path / "x.u8bin", Layout(1, 1, np.dtype("f4"), "vectors")),
    ):
        pass
