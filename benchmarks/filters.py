"""Searches among some of the rows: recall@10 and time a query, beside the same search without a filter.

    python benchmarks/filters.py vectors.npy --rows 20000

takes the first rows as the base and the last 200 of the file as queries, on one thread. Allowed rows are
drawn at random, or those on one side of a random direction, of which many are far from a query.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from nearfold import SearchIndex, fit_codec

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

K, QUERIES, SINGLE = 10, 200, 20
SHARES = (0.01, 0.1, 0.5)
CODECS = ("NearFold192,SQ8", "NearFold192,AQ24")


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """Return the least processor time of some runs."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def recall(scores: Float32, found: npt.NDArray[np.int64], allowed: Mask) -> float:
    """Return the share of the K best allowed rows that were found; rows that tie with the K-th count."""
    bar = np.partition(np.where(allowed, scores, -np.inf), -K, axis=1)[:, -K]
    reached = np.take_along_axis(scores, found, 1) >= bar[:, None] - 1e-6
    return float((reached & (found >= 0)).mean())


def filters(base: Float32) -> dict[str, Mask]:
    """Return the filters by name."""
    rng = np.random.default_rng(0)
    side = base @ rng.standard_normal(base.shape[1])
    named = {"none": np.ones(len(base), bool)}
    for share in SHARES:
        named[f"{share:.0%} at random"] = rng.random(len(base)) < share
    for share in SHARES[1:]:
        named[f"{share:.0%} on one side"] = side <= np.quantile(side, share)
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--codecs", nargs="+", default=CODECS)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    held = np.load(given.vectors, mmap_mode="r")
    base, queries = (np.asarray(part, np.float32) for part in (held[: given.rows], held[-QUERIES:]))
    base, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (base, queries))
    scores = queries @ base.T
    table = Table(title=f"{given.rows} rows, recall@{K}, microseconds a query")
    for column in ("codec", "kind", "allowed", "recall", f"batch of {QUERIES}", "single"):
        table.add_column(column, no_wrap=True)
    for spec in given.codecs:
        codec = fit_codec(base, spec)
        for kind in ("flat", "hnsw", "ivf"):
            if kind == "hnsw" and "AQ" in spec:
                continue
            index = SearchIndex.build(codec, base, kind=kind)
            for name, allowed in filters(base).items():
                where = None if name == "none" else allowed

                def batch(index: SearchIndex = index, where: Mask | None = where) -> npt.NDArray[np.int64]:
                    return index.search(queries, K, where=where).ids

                def single(index: SearchIndex = index, where: Mask | None = where) -> None:
                    for i in range(SINGLE):
                        index.search(queries[i : i + 1], K, where=where)

                found = f"{recall(scores, batch(), allowed):.3f}"
                times = [1e6 * seconds(batch) / QUERIES, 1e6 * seconds(single) / SINGLE]
                table.add_row(spec, kind, name, found, *(f"{each:.0f}" for each in times))
    Console(width=110, highlight=False).print(table)


if __name__ == "__main__":
    main()
