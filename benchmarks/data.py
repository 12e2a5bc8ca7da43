"""The benchmarks' real vectors: base and queries, never mixed."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

N_QUERIES = 1000


def data_folder() -> Path:
    """Return the folder that --data names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    folder: Path = parser.parse_args().data
    return folder


def load(folder: Path, name: str) -> tuple[Float32, Float32]:
    """Return base and queries (the last 1,000 rows) of one set as float32."""
    vectors = np.load(folder / f"{name}.npy").astype(np.float32)
    return vectors[:-N_QUERIES], vectors[-N_QUERIES:]
