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
from typing import NamedTuple

import faiss
from data import load
from sklearn import decomposition

from nearfold import Encoder, compare
from nearfold._utils.arrays import Float32, Metric, normalize_rows
from nearfold._utils.threads import blas_threads
from nearfold.codecs.fitting import CodecFitter
from nearfold.errors import NearfoldError
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.intervals import Estimate
from nearfold.evaluation.recall import recall_of_fold, recall_of_neighbors
from nearfold.folds.fold import Fold
from nearfold.methods.registry import METHODS
from nearfold.planning.halving import judged
from nearfold.report.provenance import versions

OUT = Path(__file__).parents[1] / "docs" / "benchmarks.md"

SETS: list[tuple[str, tuple[Metric, ...]]] = [
    ("wordnet-minilm-384", ("cosine", "ip")),
    ("wordnet-mpnet-768", ("cosine",)),
    ("sift-128", ("l2",)),
]
SHARES = (0.125, 0.25, 0.5)
BYTES = (24, 48)

Learner = Callable[[Float32, int, Metric], Fold]


class Peer(NamedTuple):
    """Another package's linear map; one that takes minutes is learned once a set."""

    learn: Learner
    slow: bool = False


class Result(NamedTuple):
    """recall@10, and the seconds of learning."""

    kept: Estimate
    seconds: float


Results = dict[tuple[Metric, int], Result]


def methods(quick: bool) -> list[str]:
    """Return the methods whose libraries are here."""
    return [
        name
        for name, method in METHODS.items()
        if (method.needs is None or importlib.util.find_spec(method.needs[0]) is not None)
        and (method.linear or not quick)
    ]


def peers() -> dict[str, Peer]:
    """Return other packages' linear maps by name."""
    found = {"faiss PCAMatrix": Peer(faiss_pca)}
    if importlib.util.find_spec("torch") is not None:
        from tldr import tldr

        found["TLDR (its paper, in torch, 20 epochs)"] = Peer(tldr, slow=True)
    return found


def faiss_pca(X: Float32, m: int, metric: Metric) -> Fold:
    """Return faiss's PCA, which centres."""
    rows = normalize_rows(X) if metric == "cosine" else X
    matrix = faiss.PCAMatrix(X.shape[1], m)
    matrix.train(rows)
    weight = faiss.vector_to_array(matrix.A).reshape(m, -1)
    return Encoder(weight, bias=faiss.vector_to_array(matrix.b), metric=metric, method="faiss")


def of_method(
    name: str, base: Float32, queries: Float32, sizes: list[int], metrics: tuple[Metric, ...]
) -> Results:
    """Return what a method keeps at each size and metric."""
    compared = compare(
        base, queries=queries, n_components=sizes, methods=[name], metrics=metrics, k=[10], n_candidates=[]
    )
    return {
        (entry.evaluation.metric, entry.encoder.n_components): Result(
            entry.evaluation.recall[10], entry.fit_seconds
        )
        for entry in compared.entries
    }


def of_peer(learn: Learner, truths: dict[Metric, GroundTruth], base: Float32, sizes: list[int]) -> Results:
    """Return what a peer keeps at each size and metric."""
    results = {}
    for metric, truth in truths.items():
        for m in sizes:
            began = time.perf_counter()
            fold = learn(base, m, metric)
            seconds = time.perf_counter() - began
            results[metric, m] = Result(recall_of_fold(fold, truth, [10], []).recall[10], seconds)
    return results


def reference_seconds(base: Float32, m: int) -> float:
    """Return the median time of scikit-learn's PCA."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        decomposition.PCA(m, svd_solver="covariance_eigh").fit(base)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def by_dimensions(folder: Path, quick: bool) -> list[str]:
    """Return a table a set and metric."""
    lines: list[str] = []
    for name, metrics in SETS:
        base, queries = load(folder, name)
        sizes = [round(share * base.shape[1]) for share in SHARES]
        truths = {metric: GroundTruth.compute(base, queries, 10, metric) for metric in metrics}
        reference = {m: reference_seconds(base, m) for m in sizes}
        found: dict[str, Results | str] = {}
        # Those that take minutes are learned once: at the middle size, for the first metric.
        few = sizes[1:2], metrics[:1]
        for method in methods(quick):
            asked = few if not METHODS[method].linear else (sizes, metrics)
            try:
                found[method] = of_method(method, base, queries, *asked)
            except NearfoldError as error:
                found[method] = str(error).replace("|", "/")
            print(name, method, found[method], flush=True)
        for label, peer in peers().items():
            widths, searched = few if peer.slow else (sizes, metrics)
            found[label] = of_peer(peer.learn, {metric: truths[metric] for metric in searched}, base, widths)
            print(name, label, found[label], flush=True)
        for metric in metrics:
            lines += table(f"{name}, {metric}", base, metric, sizes, found, reference)
    return lines


def table(
    title: str,
    base: Float32,
    metric: Metric,
    sizes: list[int],
    found: dict[str, Results | str],
    reference: dict[int, float],
) -> list[str]:
    """Return one metric's table, as Markdown."""
    lines = ["", f"## {title}", "", f"{len(base):,} rows of {base.shape[1]} dimensions.", ""]
    lines.append("| method | " + " | ".join(f"{m} dimensions | time" for m in sizes) + " |")
    lines.append("|---|" + "---|" * (2 * len(sizes)))
    best = {
        m: max(
            results[metric, m].kept.mean
            for results in found.values()
            if not isinstance(results, str) and (metric, m) in results
        )
        for m in sizes
    }
    for label, results in found.items():
        if isinstance(results, str):
            lines.append(f"| {label} | refused: {results} |" + " |" * (2 * len(sizes) - 1))
            continue
        if not any((metric, m) in results for m in sizes):
            continue
        cells = []
        for m in sizes:
            if (metric, m) not in results:
                cells += ["", ""]
                continue
            kept, seconds = results[metric, m]
            bold = "**" if kept.mean == best[m] else ""
            cells += [
                f"{bold}{kept.mean:.3f}{bold} [{kept.low:.3f} {kept.high:.3f}]",
                f"{seconds / reference[m]:.1f}",
            ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    times = ", ".join(f"{m} dimensions {seconds:.2f} s" for m, seconds in reference.items())
    return [*lines, "", f"scikit-learn's PCA took: {times}."]


def by_bytes(folder: Path) -> list[str]:
    """Return a table of codes on MiniLM, faiss's own among them."""
    base, queries = (normalize_rows(part) for part in load(folder, "wordnet-minilm-384"))
    truth = GroundTruth.compute(base, queries, 10, "cosine")
    lines = [
        "",
        "## wordnet-minilm-384, bytes",
        "",
        "Time: of learning, as a multiple of faiss's OPQ of as many bytes.",
        "",
        "| codes | bytes | recall@10 | time |",
        "|---|---|---|---|",
    ]
    for n in BYTES:
        found: dict[str, Result] = {}
        for spec in (f"NearFold192,AQ{n}", f"NearFold192,OPQ{n}", f"NearFold{8 * n},Binary"):
            asked = spec if spec != "NearFold384,Binary" else "Binary"
            # A fitter of its own, so that no fold is at hand.
            codec = CodecFitter(base).fit(asked)
            kept = judged(codec, truth, 10, 0)[0].recall[10]
            found[asked] = Result(kept, float(codec.facts["fit_seconds"]))
            print(asked, found[asked], flush=True)
        reference = f"faiss OPQ{n}_192,PQ{n}"
        for factory in (f"ITQ{8 * n},LSH", f"OPQ{n}_192,PQ{n}", f"PQ{n}"):
            index = faiss.index_factory(base.shape[1], factory, faiss.METRIC_L2)
            began = time.perf_counter()
            index.train(base)
            seconds = time.perf_counter() - began
            index.add(base)
            near = index.search(queries, 10)[1]
            kept = recall_of_neighbors(truth, near, [10], []).recall[10]
            found[f"faiss {factory}"] = Result(kept, seconds)
            print(factory, found[f"faiss {factory}"], flush=True)
        lines += [
            f"| {label} | {n} | {_cell(kept)} | {seconds / found[reference].seconds:.2f} |"
            for label, (kept, seconds) in found.items()
        ]
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
        "Written by `make bench` in one run. recall@10: the share of each held-out query's true ten nearest",
        "neighbours that are still among the ten nearest after folding; 1,000 queries, exact search, 95%",
        "bootstrap intervals. Time: of learning, as a multiple of scikit-learn's PCA (`covariance_eigh`) on",
        "the same rows in the same run. Methods that take minutes are learned at one size, for one metric.",
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
