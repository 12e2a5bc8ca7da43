"""Write vectors of any number that have the neighbourhoods of real ones.

Each row is drawn near a real one, along the differences to its real neighbours: a random walk of
two such steps, so that the local dimension, the clusters and the norms are those of the data.
Rows come in blocks with a seed of their own: any part of a file can be made again alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from data import Float32

from nearfold._utils.arrays import normalize_rows
from nearfold.io.base import Chunk, Layout
from nearfold.io.vectors import open_sink
from nearfold.scan.neighbors import nearest_others

BLOCK = 4096
NEIGHBORS = 12


class Neighbourhoods:
    """Real rows and their nearest others, to draw new rows from.

    Parameters
    ----------
    real
        Shape (n, d), float32.
    """

    def __init__(self, real: Float32) -> None:
        self.real = real
        rows = normalize_rows(real)
        self.others = np.concatenate(
            [
                nearest_others(rows, np.arange(start, min(len(rows), start + 4096)), NEIGHBORS, "cosine")
                for start in range(0, len(rows), 4096)
            ]
        )

    def block(self, number: int, rows: int, seed: int) -> Float32:
        """Return `rows` rows of a block, shape (rows, d), the same for the same number and seed."""
        rng = np.random.default_rng((seed, number))
        row = rng.integers(0, len(self.real), rows)
        drawn = self.real[row]
        for _ in range(2):
            step = self.real[self.others[row, rng.integers(0, NEIGHBORS, rows)]]
            step -= self.real[self.others[row, rng.integers(0, NEIGHBORS, rows)]]
            step *= rng.uniform(-0.6, 0.6, rows).astype(np.float32)[:, None]
            drawn += step
        return drawn


def blocks(source: Neighbourhoods, rows: int, seed: int) -> Iterator[Float32]:
    """Yield blocks of together `rows` rows."""
    for number in range(-(-rows // BLOCK)):
        yield source.block(number, min(BLOCK, rows - number * BLOCK), seed)


def write(path: Path, source: Neighbourhoods, rows: int, seed: int = 0) -> None:
    """Write `rows` rows to a file that does not exist yet."""
    layout = Layout(rows, source.real.shape[1], np.dtype(np.float32), "vectors")
    with open_sink(path, layout) as sink:
        for block in blocks(source, rows, seed):
            sink.write(Chunk(block))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path, help="real vectors (.npy)")
    parser.add_argument("out", type=Path, help="the file to write (.npy, .parquet, ...)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.out, Neighbourhoods(np.load(given.real).astype(np.float32)), given.rows, given.seed)
