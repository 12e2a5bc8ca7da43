"""The references that work on large files is measured against: numpy alone, one pass, one file (.npy)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

CHUNK_BYTES = 16 << 20


def chunks(path: Path) -> Iterator[Float32]:
    """Read a float32 .npy file into one buffer, over and over."""
    with path.open("rb", buffering=0) as file:
        np.lib.format.read_magic(file)
        (_, d), _, _ = np.lib.format.read_array_header_1_0(file)
        buffer = np.empty((CHUNK_BYTES // (4 * d), d), np.float32)
        while rows := file.readinto(buffer.data.cast("B")) // (4 * d):
            yield buffer[:rows]


def multiply(path: Path, n_rows: int) -> None:
    """Multiply every chunk by a matrix of `n_rows` rows."""
    out = None
    for chunk in chunks(path):
        if out is None:
            matrix = np.random.default_rng(0).standard_normal((n_rows, chunk.shape[1])).astype(np.float32)
            out = np.empty((len(chunk), n_rows), np.float32)
        np.matmul(chunk, matrix.T, out=out[: len(chunk)])


def fold(path: Path, weight: Path, out: Path) -> None:
    """Write X @ W.T to another file, and have the disk take it."""
    W = np.load(weight)
    rows = np.load(path, mmap_mode="r").shape[0]
    with out.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, len(W))}
        )
        for chunk in chunks(path):
            file.write((chunk @ W.T).data)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    if sys.argv[1] == "multiply":
        multiply(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        fold(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
