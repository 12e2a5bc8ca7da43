"""What `nearfold plan` chooses against the exhaustive grid: the difference on fresh queries, and the time.

The grid is dimensions x quantisers: each quantiser that fits into the bytes, behind a fold to each of the
GRID's shares of the dimensions that it fits, and without one. Every cell is fitted on all rows, and the best
on the same validation queries is the grid's choice; both choices are then judged on the last 1,000 rows,
which neither has seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from data import load
from rich.console import Console
from rich.table import Table

from nearfold._utils.arrays import normalize_rows
from nearfold.cli.console import interval
from nearfold.codecs.quantizers.base import QuantizerSpec
from nearfold.codecs.quantizers.floats import FLOATS
from nearfold.codecs.quantizers.rabitq import RABITQ, rabitq_bytes
from nearfold.codecs.quantizers.scalar import SCALARS
from nearfold.codecs.spec import CodecSpec
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.intervals import paired_estimate
from nearfold.evaluation.split import base_and_queries
from nearfold.planning.halving import RUNGS, Trial, judged, successive_halving
from nearfold.planning.plan import plan

console = Console(width=130, highlight=False)

COLUMN = "recall@10"

GRID = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 7 / 8)
# Additive codes of more bytes take minutes to learn, and hardly differ from 8 bits a dimension.
MOST_LEARNED_BYTES = 128


def takes(name: str, m: int) -> int:
    """Return the bytes of m dimensions."""
    if name in FLOATS:
        return FLOATS[name].itemsize * m
    if name in RABITQ:
        return rabitq_bytes(name, m)
    return -(-SCALARS.get(name, 1) * m // 8)


def grid_of(n_bytes: int, d: int) -> list[CodecSpec]:
    """Return every cell of the grid that takes at most `n_bytes` a vector, and more than half of them."""
    widths = sorted({round(share * d) for share in GRID})
    cells: list[CodecSpec] = []
    for name in (*FLOATS, *SCALARS, *RABITQ, "Binary"):
        # The most dimensions that fit, in eights where the quantiser wants them; fewer only lose.
        step = 8 if name in RABITQ or name == "Binary" else 1
        most = max((m for m in range(step, d + 1, step) if takes(name, m) <= n_bytes), default=0)
        if most == d:
            cells.append(CodecSpec(None, None, QuantizerSpec(name)))
        elif most:
            cells += [CodecSpec(fold, most, QuantizerSpec(name)) for fold in ("nearfold", "pca-uncentred")]
    if d % n_bytes == 0:
        cells += [CodecSpec(None, None, QuantizerSpec(name, n_bytes)) for name in ("PQ", "OPQ")]
    for width in sorted({n_bytes * (width // n_bytes) for width in widths} - {0}):
        cells.append(CodecSpec(None, None, QuantizerSpec("OPQ", n_bytes, width)))
        for fold in ("nearfold", "pca-uncentred"):
            cells += [CodecSpec(fold, width, QuantizerSpec(name, n_bytes)) for name in ("PQ", "OPQ")]
        if n_bytes <= MOST_LEARNED_BYTES:
            cells.append(CodecSpec("nearfold", width, QuantizerSpec("AQ", n_bytes)))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="wordnet-minilm-384")
    parser.add_argument("--sizes", default="24,48,96,192", help="bytes a vector, with commas between")
    arguments = parser.parse_args()
    base, fresh = (normalize_rows(part) for part in load(arguments.data, arguments.set))
    truth = GroundTruth.compute(base, fresh, 10, "cosine")
    rows, validation = base_and_queries(base, None)

    def on_fresh(trial: Trial) -> np.ndarray:
        return np.asarray(judged(trial.codec, truth, 10, 0)[0].per_query[COLUMN])

    table = Table(title=f"{arguments.set}, {len(rows):,} rows, recall@10 of {len(fresh):,} fresh queries")
    headings = (
        "bytes",
        "cells",
        "plan's choice",
        "grid's choice",
        "difference",
        "plan s",
        "grid s",
        "share",
    )
    for heading in headings:
        table.add_column(heading)
    for size in map(int, arguments.sizes.split(",")):
        began = time.perf_counter()
        chosen = plan(rows, n_bytes=size, storage="nowhere", queries=validation).chosen
        planned = time.perf_counter() - began
        specs = grid_of(size, base.shape[1])
        began = time.perf_counter()
        trials, _ = successive_halving(
            rows,
            validation,
            specs,
            [size] * len(specs),
            metric="cosine",
            k=10,
            n_candidates=0,
            column=COLUMN,
            seed=0,
            seconds=None,
            rungs=RUNGS[-1:],
        )
        grid = time.perf_counter() - began
        best = max(trials, key=lambda trial: trial.quality(COLUMN))
        ours, theirs = on_fresh(chosen), on_fresh(best)
        table.add_row(
            str(size),
            str(len(specs)),
            f"{chosen.spec} {ours.mean():.3f}",
            f"{best.spec} {theirs.mean():.3f}",
            interval(paired_estimate(ours, theirs)),
            f"{planned:.0f}",
            f"{grid:.0f}",
            f"{planned / grid:.2f}",
        )
        console.print(table)
    console.print("Share: plan's time as a share of the grid's.")


if __name__ == "__main__":
    main()
