"""What `nearfold plan` chooses against the exhaustive grid: the difference on fresh queries, and the time.

The grid fits every candidate of a size on all rows and takes the one that is best on the same validation
queries; both choices are then judged on the last 1,000 rows, which neither has seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from data import load
from rich.console import Console
from rich.table import Table

from nearfold.arrays import normalize_rows
from nearfold.cli.console import interval
from nearfold.evaluation.intervals import estimate
from nearfold.evaluation.split import base_and_queries
from nearfold.evaluation.truth import Truth
from nearfold.planning.candidates import candidates
from nearfold.planning.choice import plan
from nearfold.planning.halving import RUNGS, Trial, judged, successive_halving

console = Console(width=130, highlight=False)

COLUMN = "P@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="wordnet-minilm-384")
    parser.add_argument("--sizes", default="24,48,96,192", help="bytes a vector, with commas between")
    arguments = parser.parse_args()
    base, fresh = (normalize_rows(part) for part in load(arguments.data, arguments.set))
    truth = Truth.compute(base, fresh, 10, "cosine")
    rows, validation = base_and_queries(base, None)

    def on_fresh(trial: Trial) -> np.ndarray:
        return np.asarray(judged(trial.pipeline, truth, 10, 0)[0].per_query[COLUMN])

    table = Table(title=f"{arguments.set}, {len(rows):,} rows, P@10 of {len(fresh):,} fresh queries")
    headings = (
        "bytes",
        "candidates",
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
        chosen = plan(rows, n_bytes=size, full="nowhere", queries=validation).chosen
        planned = time.perf_counter() - began
        specs = candidates(size, base.shape[1])
        began = time.perf_counter()
        trials, _ = successive_halving(
            rows,
            validation,
            specs,
            [size] * len(specs),
            metric="cosine",
            k=10,
            depth=0,
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
            interval(estimate((ours - theirs)[:, None])[0]),
            f"{planned:.0f}",
            f"{grid:.0f}",
            f"{planned / grid:.2f}",
        )
        console.print(table)
    console.print("Share: plan's time as a share of the grid's.")


if __name__ == "__main__":
    main()
