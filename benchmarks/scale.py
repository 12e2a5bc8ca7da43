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

from nearfold import Encoder, NearFold, config_context
from nearfold.io.vectors import open_source

NEARFOLD = str(Path(sys.executable).with_name("nearfold"))
BARE = [sys.executable, str(Path(__file__).with_name("bare.py"))]
DIMS = 128
ANCHORS = 1024

# What of a fit grows with the rows: the scan. Printed by a process of its own.
SCAN = """
import sys, time
from nearfold import config_context, NearFold
from nearfold.io.vectors import open_source
from nearfold._utils.progress import reporting
class Clock:
    def start(self, label, total, unit):
        started = time.perf_counter()
        def finish():
            if label == "scan":
                print(time.perf_counter() - started)
        return (lambda steps: None), finish
with reporting(Clock()):
    fold = NearFold(int(sys.argv[2]), n_anchors=int(sys.argv[3]))
    fold.fit(open_source(sys.argv[1])).encoder_
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


def recall(encoder: Path, vectors: Path, queries: Path) -> float:
    """Return recall@10 over all rows."""
    command = [NEARFOLD, "eval", str(encoder), str(vectors), "--queries", str(queries), "--json"]
    return float(json.loads(run(command).output)["recall@10"]["mean"])


class Bench(NamedTuple):
    """Where the files of a run are, and the table that it fills."""

    scratch: Path
    source: Neighbourhoods
    pairs: int
    sizes: list[int]
    table: Table

    def vectors(self, rows: int) -> Path:
        """Return a file of so many rows, made if it is missing."""
        path = self.scratch / f"{rows}.npy"
        if not path.exists():
            write(path, self.source, rows)
        return path

    def fold(self, rows: int) -> Path:
        """Return an encoder fitted to so many rows by the command line."""
        path = self.scratch / f"fold-{rows}.safetensors"
        if not path.exists():
            run(fit_command(self.vectors(rows), path))
        return path

    def say(self, what: str, figure: str) -> None:
        """Note a figure, and print it at once."""
        print(f"{what}: {figure}", flush=True)
        self.table.add_row(what, figure)


MILLION = 1_000_000


def fit_command(vectors: Path, out: Path) -> list[str]:
    return [NEARFOLD, "fit", str(vectors), "-d", str(DIMS), "-o", str(out), "-q"]


def fitting(bench: Bench) -> None:
    """Compare a fit with one pass that multiplies; memory must not grow with the rows."""
    vectors = bench.vectors(MILLION)
    fit = fit_command(vectors, bench.scratch / "fold.safetensors")
    text, peak = paired(fit, [*BARE, "multiply", str(vectors), "1024"], bench.pairs)
    bench.say("fit 1,000,000 x 768 -> 128 / read and multiply by 1,024 rows", text)
    bench.say("peak memory of the fit", f"{peak / 1e6:.0f} MB")
    double = bench.vectors(2 * MILLION)
    peak = run(fit_command(double, bench.scratch / "fold.safetensors")).peak
    bench.say("the same for 2,000,000 rows", f"{peak / 1e6:.0f} MB")
    double.unlink()


def applying(bench: Bench) -> None:
    """Compare folding into a folder with a bare loop."""
    vectors, fold = bench.vectors(MILLION), bench.fold(MILLION)
    np.save(bench.scratch / "weight.npy", Encoder.load(fold).weight)
    out = bench.scratch / "out"
    apply = [NEARFOLD, "apply", str(fold), str(vectors), "-o", str(out), "-q"]
    files = [str(vectors), str(bench.scratch / "weight.npy"), str(bench.scratch / "bare.npy")]
    text, peak = paired(apply, [*BARE, "fold", *files], bench.pairs, out)
    bench.say("apply to a folder / read, X @ W.T, write, fsync", text)
    bench.say("its peak memory", f"{peak / 1e6:.0f} MB")


def preserving(bench: Bench) -> None:
    """Compare what folds fitted to a file and to its array keep, among all rows."""
    vectors, queries = bench.vectors(MILLION), bench.scratch / "queries.npy"
    write(queries, bench.source, 1000, seed=1)
    in_memory = bench.scratch / "in-memory.safetensors"
    NearFold(DIMS).fit(np.load(vectors)).encoder_.save(in_memory)
    both = [recall(path, vectors, queries) for path in (bench.fold(MILLION), in_memory)]
    bench.say("recall@10, fitted to the file and to its array", f"{both[0]:.4f} {both[1]:.4f}")


def scaling(bench: Bench) -> None:
    """Time the scan, which is what grows, for more and more rows."""
    for rows in bench.sizes:
        path = bench.vectors(rows)
        command = [sys.executable, "-c", SCAN, str(path), str(DIMS), str(ANCHORS)]
        scans = [float(run(command).output) for _ in range(bench.pairs)]
        a_million = np.median(scans) / rows * 1e6
        bench.say(
            f"scan of {rows:,} rows", f"{a_million:.2f} s a million ({min(scans):.2f} to {max(scans):.2f} s)"
        )
        if rows != MILLION:
            path.unlink()


def clustering(bench: Bench) -> None:
    """Compare a cluster of two processes with the threads of one.

    The last of all: Dask sets this process, and all it starts from there on, to one thread.
    """
    vectors = bench.vectors(MILLION)
    local = Encoder.load(bench.fold(MILLION)).weight
    started = time.perf_counter()
    NearFold(DIMS).fit(open_source(vectors))
    bench.say("fit by threads, in a running process", f"{time.perf_counter() - started:.1f} s")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        started = time.perf_counter()
        with config_context(scheduler=client):
            spread = NearFold(DIMS).fit(vectors).encoder_.weight
        seconds = time.perf_counter() - started
    difference = float(np.linalg.norm(spread - local) / np.linalg.norm(local))
    bench.say("Dask, 2 worker processes: |W - W local| / |W local|", f"{difference:.1e}, {seconds:.1f} s")


PARTS = {f.__name__: f for f in (fitting, applying, preserving, scaling, clustering)}


def main(data: Path, scratch: Path, pairs: int, sizes: list[int], parts: list[str]) -> None:
    real = np.load(data / "wordnet-mpnet-768.npy").astype(np.float32)
    table = Table(title=f"{os.cpu_count()} cores", show_header=False)
    bench = Bench(scratch, Neighbourhoods(real[:-1000]), pairs, sizes, table)
    for part in parts:
        PARTS[part](bench)
    Console(width=140).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, help="a folder with 16 GB to spare")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--sizes", default="100000,1000000,4000000")
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        main(
            given.data,
            Path(folder),
            given.pairs,
            [int(size) for size in given.sizes.split(",")],
            given.parts.split(","),
        )
