"""Fit and fold files of a million rows and more, against bare numpy; whole processes are timed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from distributed import Client, LocalCluster
from large import Neighbourhoods, write
from rich.console import Console
from rich.table import Table

from nearfold import Encoder, NearFold
from nearfold.io.vectors import open_source
from nearfold.scale.dask import DaskEngine
from nearfold.scale.engine import engine_for
from nearfold.scale.fit import fit_files

NEARFOLD = str(Path(sys.executable).with_name("nearfold"))
BARE = [sys.executable, str(Path(__file__).with_name("bare.py"))]
DIMS = 128
ANCHORS = 1024

# What of a fit grows with the rows: the scan. Printed by a process of its own.
SCAN = """
import sys, time
from nearfold import NearFold
from nearfold.io.vectors import open_source
from nearfold.progress import reporting
from nearfold.scale.engine import engine_for
from nearfold.scale.fit import fit_files
class Clock:
    def start(self, label, total, unit):
        started = time.perf_counter()
        def finish():
            if label == "scan":
                print(time.perf_counter() - started)
        return (lambda steps: None), finish
with reporting(Clock()):
    fold = NearFold(int(sys.argv[2]), n_anchors=int(sys.argv[3]))
    fit_files(fold, open_source(sys.argv[1]), engine_for(None, 1_500_000_000))
"""


class Run(NamedTuple):
    """A process: seconds of wall time, peak resident bytes, what it printed."""

    seconds: float
    peak: int
    output: str


def run(command: list[str]) -> Run:
    """Run a process to its end and measure it."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return Run(time.perf_counter() - started, usage.ru_maxrss * 1024, output)


def paired(ours: list[str], reference: list[str], pairs: int, clean: Path | None = None) -> tuple[str, int]:
    """Return seconds of both and their ratio as text, and our peak memory, over runs in turn."""
    times, peak = [], 0
    for _ in range(pairs):
        if clean is not None:
            shutil.rmtree(clean, ignore_errors=True)
        os.sync()
        mine = run(ours)
        os.sync()
        times.append((mine.seconds, run(reference).seconds))
        peak = max(peak, mine.peak)
    seconds = np.array(times)
    ratio = np.sort(seconds[:, 0] / seconds[:, 1])
    middle = np.median(seconds, axis=0)
    text = (
        f"{middle[0]:.1f} s / {middle[1]:.1f} s = {np.median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f})"
    )
    return text, peak


def preservation(encoder: Path, vectors: Path, queries: Path) -> float:
    """Return P@10 over all rows."""
    command = [NEARFOLD, "eval", str(encoder), str(vectors), "--queries", str(queries), "--json"]
    return float(json.loads(run(command).output)["P@10"]["mean"])


def main(data: Path, scratch: Path, pairs: int, sizes: list[int]) -> None:
    real = np.load(data / "wordnet-mpnet-768.npy").astype(np.float32)
    source = Neighbourhoods(real[:-1000])
    table = Table(title=f"{os.cpu_count()} cores", show_header=False)
    million, double = scratch / "1000000.npy", scratch / "2000000.npy"
    write(million, source, 1_000_000)
    queries = scratch / "queries.npy"
    write(queries, source, 1000, seed=1)
    fold, fold2 = scratch / "fold.safetensors", scratch / "fold2.safetensors"

    fit = [NEARFOLD, "fit", str(million), "-d", str(DIMS), "-o", str(fold), "-q"]
    text, peak = paired(fit, [*BARE, "multiply", str(million), "1024"], pairs)
    table.add_row("fit 1,000,000 x 768 -> 128 / read and multiply by 1,024 rows", text)
    table.add_row("peak memory of the fit", f"{peak / 1e6:.0f} MB")
    print(text, peak, flush=True)

    write(double, source, 2_000_000)
    peak = run([NEARFOLD, "fit", str(double), "-d", str(DIMS), "-o", str(fold2), "-q"]).peak
    table.add_row("the same for 2,000,000 rows", f"{peak / 1e6:.0f} MB")
    double.unlink()
    print(peak, flush=True)

    np.save(scratch / "weight.npy", Encoder.load(fold).weight)
    out = scratch / "out"
    apply = [NEARFOLD, "apply", str(fold), str(million), "-o", str(out), "-q"]
    reference = [*BARE, "fold", str(million), str(scratch / "weight.npy"), str(scratch / "bare.npy")]
    text, peak = paired(apply, reference, pairs, out)
    table.add_row("apply to a folder / read, X @ W.T, write, fsync", text)
    table.add_row("its peak memory", f"{peak / 1e6:.0f} MB")
    print(text, peak, flush=True)

    NearFold(DIMS).fit(np.load(million)).encoder_.save(fold2)
    both = [preservation(path, million, queries) for path in (fold, fold2)]
    table.add_row("P@10, fitted to the file and to its array", f"{both[0]:.4f} {both[1]:.4f}")
    print(both, flush=True)

    local = Encoder.load(fold).weight
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        started = time.perf_counter()
        spread = fit_files(NearFold(DIMS), open_source(million), DaskEngine(client)).weight
        seconds = time.perf_counter() - started
    difference = float(np.linalg.norm(spread - local) / np.linalg.norm(local))
    table.add_row("Dask, 2 worker processes: |W - W local| / |W local|", f"{difference:.1e}, {seconds:.1f} s")
    started = time.perf_counter()
    fit_files(NearFold(DIMS), open_source(million), engine_for(None, 1_500_000_000))
    table.add_row("the same by threads, in a running process", f"{time.perf_counter() - started:.1f} s")
    print(difference, seconds, flush=True)

    for rows in sizes:
        path = million if rows == 1_000_000 else scratch / f"{rows}.npy"
        if path != million:
            write(path, source, rows)
        scans = [
            float(run([sys.executable, "-c", SCAN, str(path), str(DIMS), str(ANCHORS)]).output)
            for _ in range(pairs)
        ]
        line = f"{np.median(scans) / rows * 1e6:.2f} s a million ({min(scans):.2f} to {max(scans):.2f} s)"
        table.add_row(f"scan of {rows:,} rows", line)
        print(rows, line, flush=True)
        if path != million:
            path.unlink()
    Console(width=140).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, help="a folder with 16 GB to spare")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--sizes", default="100000,1000000,4000000")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        main(given.data, Path(folder), given.pairs, [int(size) for size in given.sizes.split(",")])
