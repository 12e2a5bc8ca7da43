"""Write docs/benchmarks.md from one run: every method on every set, size and metric, and its peers.

Times are ratios to scikit-learn's PCA fitted on the same rows in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
from data import load
from sklearn import decomposition

from nearfold import Encoder, evaluate
from nearfold.arrays import Float32, Metric, normalize_rows
from nearfold.evaluation.intervals import Estimate
from nearfold.evaluation.judge import judge_found
from nearfold.evaluation.truth import Truth
from nearfold.fold import Fold
from nearfold.methods.registry import METHODS, make
from nearfold.pipeline.fitting import PipelineFitter
from nearfold.planning.halving import judged
from nearfold.report.provenance import versions
from nearfold.threads import blas_threads

OUT = Path(__file__).parents[1] / "docs" / "benchmarks.md"

SETS: list[tuple[str, tuple[Metric, ...]]] = [
    ("wordnet-minilm-384", ("cosine", "ip")),
    ("wordnet-mpnet-768", ("cosine",)),
    ("sift-128", ("l2",)),
]
SHARES = (0.125, 0.25, 0.5)
BYTES = (24, 48)

Learner = Callable[[Float32, int, Metric], Fold]


def learners(quick: bool) -> dict[str, Learner]:
    """Return what is compared by name: this package's methods, and peers."""
    found: dict[str, Learner] = {}
    for name, method in METHODS.items():
        needed = method.needs is None or importlib.util.find_spec(method.needs[0]) is not None
        if needed and (method.linear or not quick):
            found[name] = lambda X, m, metric, name=name: (  # type: ignore[misc]
                make(name, m, metric=metric, random_state=0).fit(X).encoder_
            )
    found["faiss PCAMatrix"] = faiss_pca
    if importlib.util.find_spec("torch") is not None:
        from tldr import tldr

        found["TLDR (its paper, in torch)"] = tldr
    return found


def faiss_pca(X: Float32, m: int, metric: Metric) -> Fold:
    """Return faiss's PCA, which centres."""
    rows = normalize_rows(X) if metric == "cosine" else X
    matrix = faiss.PCAMatrix(X.shape[1], m)
    matrix.train(rows)
    weight = faiss.vector_to_array(matrix.A).reshape(m, -1)
    return Encoder(weight, bias=faiss.vector_to_array(matrix.b), metric=metric, method="faiss")


def by_dimensions(folder: Path, quick: bool) -> list[str]:
    """Return a table a set and metric."""
    lines: list[str] = []
    for name, metrics in SETS:
        base, queries = load(folder, name)
        d = base.shape[1]
        for metric in metrics:
            lines += ["", f"## {name}, {metric}", "", f"{len(base):,} rows of {d} dimensions.", ""]
            sizes = [round(share * d) for share in SHARES]
            lines.append("| method | " + " | ".join(f"{m} dimensions | time" for m in sizes) + " |")
            lines.append("|---|" + "---|" * (2 * len(sizes)))
            reference = {}
            for m in sizes:
                seconds = []
                for _ in range(3):
                    began = time.perf_counter()
                    decomposition.PCA(m, svd_solver="covariance_eigh").fit(base)
                    seconds.append(time.perf_counter() - began)
                reference[m] = statistics.median(seconds)
            for label, learner in learners(quick).items():
                cells = []
                for m in sizes:
                    began = time.perf_counter()
                    try:
                        fold = learner(base, m, metric)
                    except Exception as error:
                        cells += [f"refused: {error}".replace("|", "/"), ""]
                        continue
                    ratio = (time.perf_counter() - began) / reference[m]
                    value = evaluate(fold, base, queries).preservation[10]
                    bold = "**" if label == "nearfold" else ""
                    cells += [
                        f"{bold}{value.mean:.3f}{bold} [{value.low:.3f} {value.high:.3f}]",
                        f"{ratio:.1f}",
                    ]
                lines.append(f"| {label} | " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
            times = ", ".join(f"{m}: {seconds:.2f} s" for m, seconds in reference.items())
            lines += ["", f"scikit-learn's PCA took {times}."]
    return lines


def by_bytes(folder: Path) -> list[str]:
    """Return a table of codes on MiniLM, faiss's own among them."""
    base, queries = (normalize_rows(part) for part in load(folder, "wordnet-minilm-384"))
    truth = Truth.compute(base, queries, 10, "cosine")
    fitter = PipelineFitter(base)
    lines = [
        "",
        "## wordnet-minilm-384, bytes",
        "",
        "| codes | bytes | P@10 | seconds |",
        "|---|---|---|---|",
    ]
    for n in BYTES:
        for spec in (f"NearFold192,AQ{n}", f"NearFold192,OPQ{n}", f"NearFold{8 * n},Binary"):
            began = time.perf_counter()
            pipeline = fitter.fit(spec if spec != "NearFold384,Binary" else "Binary")
            seconds = time.perf_counter() - began
            value = judged(pipeline, truth, 10, 0)[0].preservation[10]
            lines.append(f"| {pipeline.spec} | {n} | {_cell(value)} | {seconds:.0f} |")
            print(lines[-1], flush=True)
        for factory in (f"ITQ{8 * n},LSH", f"OPQ{n}_192,PQ{n}", f"PQ{n}"):
            began = time.perf_counter()
            index = faiss.index_factory(base.shape[1], factory, faiss.METRIC_L2)
            index.train(base)
            seconds = time.perf_counter() - began
            index.add(base)
            found = index.search(queries, 10)[1]
            value = judge_found(truth, found, [10], []).preservation[10]
            lines.append(f"| faiss {factory} | {n} | {_cell(value)} | {seconds:.0f} |")
            print(lines[-1], flush=True)
    return lines


def _cell(value: Estimate) -> str:
    return f"{value.mean:.3f} [{value.low:.3f} {value.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="linear methods alone")
    given = parser.parse_args()
    began = time.perf_counter()
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` in one run. P@10: the share of each held-out query's true ten nearest",
        "neighbours that are still among the ten nearest after folding; 1,000 queries, exact search, 95%",
        "bootstrap intervals. Time: of learning, as a multiple of scikit-learn's PCA (`covariance_eigh`) on",
        "the same rows in the same run.",
        *by_dimensions(given.data, given.quick),
        *by_bytes(given.data),
        "",
        "## Search",
        "",
        "Recall against queries per second, with HNSW, IVF-PQ, RaBitQ, usearch and LeanVec beside it, is in",
        "[findings](findings.md#two-stage-search) (`benchmarks/search.py`).",
        "",
        f"{blas_threads()} threads, {os.cpu_count()} cores, {platform.machine()}; "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + f". The run took {(time.perf_counter() - began) / 60:.0f} minutes.",
        "",
    ]
    OUT.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
