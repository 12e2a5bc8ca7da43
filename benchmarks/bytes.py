"""What few bytes keep: codecs against the best of faiss alone, on held-out queries."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
from data import Float32, load
from rich.console import Console
from rich.table import Table

from nearfold._utils.arrays import normalize_rows
from nearfold.cli.console import interval
from nearfold.codecs.fitting import CodecFitter
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.intervals import estimate, paired_estimate
from nearfold.planning.halving import judged

console = Console(width=150, highlight=False)


class Race(NamedTuple):
    """What competes at one size.

    `named` are the rivals that count for the difference; `beyond` are other kinds of quantiser that
    faiss has.
    """

    data: str
    n_bytes: int
    ours: tuple[str, ...]
    named: tuple[str, ...]
    beyond: tuple[str, ...] = ()


RACES = (
    Race(
        "wordnet-minilm-384",
        24,
        ("NearFold192,AQ24", "NearFold192,OPQ24"),
        ("PQ24", "OPQ24,PQ24", "OPQ24_96,PQ24", "OPQ24_192,PQ24", "PCA96,PQ24", "PCA192,PQ24"),
        ("PCA128,RaBitQ", "PCA192,RQ24x8"),
    ),
    Race(
        "wordnet-minilm-384",
        48,
        ("NearFold192,AQ48", "NearFold192,OPQ48"),
        ("PQ48", "OPQ48,PQ48", "OPQ48_96,PQ48", "OPQ48_192,PQ48", "PCA96,PQ48", "PCA192,PQ48"),
        ("PCA320,RaBitQ",),
    ),
    Race(
        "wordnet-mpnet-768",
        96,
        ("NearFold384,AQ96", "NearFold384,OPQ96"),
        (
            "PQ96",
            "OPQ96,PQ96",
            "OPQ96_192,PQ96",
            "OPQ96_384,PQ96",
            "PCA192,PQ96",
            "PCA384,PQ96",
            "PCA704,RaBitQ",
            "PCA304,RaBitQ2",
        ),
    ),
)


def shares(found: npt.NDArray[np.int64], truth: GroundTruth) -> npt.NDArray[np.float64]:
    right: npt.NDArray[np.float64] = truth.correct(found, 10).mean(axis=1)
    return right


def faiss_alone(
    factory: str, base: Float32, queries: Float32, truth: GroundTruth
) -> tuple[npt.NDArray[np.float64], int, float]:
    """Return recall@10 by query, bytes a vector and seconds of training, by the better of faiss's metrics."""
    best: tuple[npt.NDArray[np.float64], int, float] | None = None
    index: Any = None
    inner: Any = None
    for metric in (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2):
        if metric == faiss.METRIC_L2 and "RQ" in factory:
            continue
        began = time.perf_counter()
        if index is None or "RaBitQ" in factory:
            index = faiss.index_factory(base.shape[1], factory, metric)
            index.train(base)
        else:
            # What is trained doesn't depend on the metric.
            index.reset()
            index.metric_type = metric
            inner.metric_type = metric
        seconds = time.perf_counter() - began if best is None else best[2]
        inner = faiss.downcast_index(getattr(index, "index", index))
        if hasattr(inner, "qb"):
            inner.qb = 0
        index.add(base)
        kept = shares(index.search(queries, 10)[1], truth)
        if best is None or kept.mean() > best[0].mean():
            best = kept, int(inner.sa_code_size()), seconds
    assert best is not None
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--bytes", type=int, choices=[race.n_bytes for race in RACES], help="run this size alone"
    )
    arguments = parser.parse_args()
    for race in RACES:
        if arguments.bytes not in (None, race.n_bytes):
            continue
        base, queries = (normalize_rows(part) for part in load(arguments.data, race.data))
        truth = GroundTruth.compute(base, queries, 10, "cosine")
        table = Table(
            title=f"{race.data}, {len(base):,} rows, recall@10 of {len(queries):,} held-out queries"
        )
        for heading in ("codec", "bytes", "shared", "recall@10", "fit s", "rows/s encoded"):
            table.add_column(heading, no_wrap=True)
        kept: dict[str, npt.NDArray[np.float64]] = {}
        for spec in race.ours:
            fitter = CodecFitter(base)
            began = time.perf_counter()
            codec = fitter.fit(spec)
            fitted = time.perf_counter()
            judgement, encoding = judged(codec, truth, 10, 0)
            kept[spec] = judgement.per_query["recall@10"]
            table.add_row(
                spec,
                str(codec.bytes_per_vector),
                f"{codec.shared_bytes / 1e6:.1f} MB",
                interval(estimate(kept[spec][:, None])[0]),
                f"{fitted - began:.1f}",
                f"{len(base) / encoding:,.0f}",
            )
        for factory in (*race.named, *race.beyond):
            kept[factory], size, seconds = faiss_alone(factory, base, queries, truth)
            mean = interval(estimate(kept[factory][:, None])[0])
            table.add_row(f"faiss {factory}", str(size), "", mean, f"{seconds:.1f}", "")
            print(f"{factory}: {kept[factory].mean():.4f}", file=sys.stderr)
        console.print(table)
        first = race.ours[0]
        for label, rivals in (("named", race.named), ("beyond", race.beyond)):
            if rivals:
                rival = max(rivals, key=lambda name: kept[name].mean())
                gain = paired_estimate(kept[first], kept[rival])
                console.print(f"{first} minus {rival} ({label}): {interval(gain)}\n")


if __name__ == "__main__":
    main()
