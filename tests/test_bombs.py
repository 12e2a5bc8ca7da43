"""Files that promise more than they hold or unpack to more than fits: refused before memory is taken."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import load, open_source
from nearfold.errors import DataError, FileError
from nearfold.io.held import held_rows

TERA = 10**12


def npy_header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_npy(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(npy_header((TERA, 8)) + bytes(64))
    with pytest.raises(FileError, match="truncated: its header promises"):
        open_source(tmp_path / "x.npy")


@pytest.mark.parametrize("column", [None, "a"])
def test_npz(tmp_path: Path, column: str | None) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy_header((TERA, 8)) + bytes(10_000))
    with pytest.raises(FileError, match="promises 32000000000000 bytes"):
        open_source(tmp_path / "x.npz", column)


def test_arrays_that_are_not_asked_for_are_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", npy_header((TERA,)) + bytes(10_000))
        archive.writestr("v.npy", npy_header((4, 2)) + bytes(32))
    assert held_rows(tmp_path / "x.npz").shape == (4, 2)


def test_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset("train", (TERA, 8), "f4", chunks=(1024, 8), compression="gzip")
    with pytest.raises(FileError, match="never filled"):
        open_source(tmp_path / "x.hdf5")


def test_more_than_memory_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row, repeated: a dictionary page makes 400 MB of it in some kilobytes."""
    kind = pa.list_(pa.float32(), 100)
    row = pa.array([[1.0] * 100] * 1000, kind)
    with pq.ParquetWriter(tmp_path / "x.parquet", pa.schema([("v", kind)])) as writer:
        for _ in range(20):
            writer.write_table(pa.table({"v": row}))
    assert (tmp_path / "x.parquet").stat().st_size < 200_000
    monkeypatch.setattr("nearfold.io.vectors.memory_limit", lambda: 7_999_999)
    with pytest.raises(DataError, match="GB of memory; use --rows"):
        held_rows(tmp_path / "x.parquet")
    monkeypatch.setattr("nearfold.io.vectors.memory_limit", lambda: 8_000_000)
    assert held_rows(tmp_path / "x.parquet").shape == (20_000, 100)


@pytest.mark.parametrize("suffix", [".fvecs", ".bvecs", ".ivecs"])
def test_vecs(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(struct.pack("<i", 2**31 - 1) + bytes(100))
    with pytest.raises(FileError):
        open_source(tmp_path / f"x{suffix}")


def test_safetensors(tmp_path: Path) -> None:
    header = {"weight": {"dtype": "F32", "shape": [TERA, 8], "data_offsets": [0, 32 * TERA]}}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    with pytest.raises(FileError):
        load(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((2**62).to_bytes(8, "little") + text)
    with pytest.raises(FileError):
        load(tmp_path / "x.safetensors")
