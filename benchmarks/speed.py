"""Time as a ratio to a named reference, the two run in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from data import Float32, data_folder, load
from reference import train_with_torch
from rich.console import Console
from rich.table import Table

from nearfold import RAE, Encoder, NearFold, compare
from nearfold._utils.threads import blas_threads
from nearfold.methods.rae.gradient import draw_batches, initial_autoencoder
from nearfold.scan.neighbors import nearest

PAIRS = 7


def paired(
    ours: Callable[[], object], reference: Callable[[], object], pairs: int
) -> tuple[float, float, str]:
    """Return the median seconds of both, and the median and range of the ratio pair by pair."""
    ours()
    reference()
    times = []
    for _ in range(pairs):
        pair = []
        for run in (ours, reference):
            started = time.perf_counter()
            run()
            pair.append(time.perf_counter() - started)
        times.append(pair)
    seconds = np.array(times)
    ratio = np.sort(seconds[:, 0] / seconds[:, 1])
    middle = np.median(seconds, axis=0)
    return middle[0], middle[1], f"{np.median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f})"


def help_seconds() -> float:
    """Return the median time of `nearfold --help` as a process of its own."""
    command = [str(Path(sys.executable).with_name("nearfold")), "--help"]
    seconds = []
    for _ in range(PAIRS):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def compare_ratio(rows: Float32) -> tuple[float, float]:
    """Return the wall time of a comparison of all linear methods at three sizes, and of its fits."""
    started = time.perf_counter()
    comparison = compare(rows, n_components=["25%", "50%", "75%"])
    total = time.perf_counter() - started
    return total, sum(entry.fit_seconds for entry in comparison.entries)


def main(folder: Path) -> None:
    torch.set_num_threads(blas_threads())
    base, _ = load(folder, "wordnet-minilm-384")
    wide = base.astype(np.float64)
    rng = np.random.default_rng(0)
    start = initial_autoencoder(384, 96, rng, bias=False)
    batches = draw_batches(len(base), 128, 3000, rng)
    encoder = Encoder(np.linalg.qr(rng.standard_normal((384, 96)))[0].T.astype(np.float32))
    anchors = base[:4000]

    def reference_rae() -> None:
        train_with_torch(base, start, batches, 3000, 1e-6)

    def reference_rae_flushed() -> None:
        # Constant columns leave subnormal weights behind, on which products are slow; the
        # reference need not suffer from them if its user knows this switch.
        torch.set_flush_denormal(True)
        reference_rae()
        torch.set_flush_denormal(False)

    def faiss_neighbors() -> None:
        index = faiss.IndexFlatIP(384)
        index.add(base)
        index.search(anchors, 33)

    rae = RAE(96, weight_decay=1e-6)
    nearfold = NearFold(96)
    exact = RAE(96, solver="exact", weight_decay=1e-6)
    cases: list[tuple[str, Callable[[], object], str, Callable[[], object], int]] = [
        ("NearFold.fit", lambda: nearfold.fit(base), "torch RAE, 3,000 steps", reference_rae, PAIRS),
        ("RAE adam .fit", lambda: rae.fit(base), "torch RAE", reference_rae, PAIRS),
        ("RAE adam .fit", lambda: rae.fit(base), "torch RAE, flush_denormal", reference_rae_flushed, PAIRS),
        (
            "RAE exact .fit",
            lambda: exact.fit(wide),
            "X.T @ X + eigh, float64",
            lambda: np.linalg.eigh(wide.T @ wide),
            31,
        ),
        (
            "RAE exact .fit",
            lambda: exact.fit(base),
            "X.T @ X + eigh, float32",
            lambda: np.linalg.eigh(base.T @ base),
            31,
        ),
        ("transform", lambda: encoder.transform(base), "X @ W.T", lambda: base @ encoder.weight.T, 31),
        (
            "nearest, 4,000 anchors",
            lambda: nearest(anchors, [base], 33, "ip", len(base)),
            "faiss flat",
            faiss_neighbors,
            PAIRS,
        ),
    ]
    table = Table(title=f"29,000 x 384 -> 96, {os.cpu_count()} cores, {blas_threads()} threads")
    for heading in ("what", "seconds", "reference", "seconds", "ratio: median (range)"):
        table.add_column(heading, no_wrap=True)
    for name, ours, against, reference, pairs in cases:
        mine, theirs, ratio = paired(ours, reference, pairs)
        table.add_row(name, f"{mine:.4f}", against, f"{theirs:.4f}", ratio)
    total, fits = compare_ratio(base[:10_000])
    table.add_row(
        "compare, linear, 3 sizes", f"{total:.2f}", "sum of its fits", f"{fits:.2f}", f"{total / fits:.2f}"
    )
    table.add_row("nearfold --help", f"{help_seconds():.3f}", "", "", "")
    Console(width=120, highlight=False).print(table)


if __name__ == "__main__":
    main(data_folder())
