"""What folds keep: NearFold and RAE against principal components on real vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import data_folder, load
from rich.console import Console
from rich.table import Table

from nearfold import compare
from nearfold._utils.arrays import Metric
from nearfold.cli.console import interval
from nearfold.evaluation.compare import Comparison, ComparisonEntry
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.recall import paired_difference, recall_of_fold
from nearfold.methods.pca import PCA
from nearfold.methods.rae.estimator import RAE

console = Console(width=170, highlight=False)

SETS: list[tuple[str, int, Metric, str]] = [
    ("wordnet-minilm-384", 96, "cosine", "pca-uncentred"),
    ("wordnet-minilm-384", 96, "ip", "pca-uncentred"),
    ("wordnet-mpnet-768", 96, "cosine", "pca-uncentred"),
    ("wordnet-mpnet-768", 192, "cosine", "pca-uncentred"),
    ("sift-128", 16, "l2", "pca"),
    ("sift-128", 32, "l2", "pca"),
    ("sift-128", 64, "l2", "pca"),
]

LAMBDAS = [0.0, 1e-8, 1e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4]


def entry_of(comparison: Comparison, method: str) -> ComparisonEntry:
    return next(e for e in comparison.entries if e.method == method)


def nearfold_against_pca(folder: Path) -> None:
    table = Table(title="recall@10 of 1,000 held-out queries; the last column is paired by query")
    for heading in ("data", "fold", "metric", "pca", "pca-uncentred", "nearfold", "nearfold minus", "fit s"):
        table.add_column(heading, no_wrap=True)
    for name, dims, metric, rival in SETS:
        base, queries = load(folder, name)
        result = compare(
            base,
            queries=queries,
            n_components=[dims],
            metrics=[metric],
            methods=["pca", "pca-uncentred", "nearfold"],
        )
        ours = entry_of(result, "nearfold")
        gain = result.difference(ours, entry_of(result, rival), "recall@10")
        table.add_row(
            name,
            f"{base.shape[1]} -> {dims}",
            metric,
            *(interval(e.evaluation.recall[10]) for e in result.entries),
            f"{rival} {interval(gain)}",
            f"{ours.fit_seconds:.2f}",
        )
    console.print(table)


def published_rae(folder: Path) -> None:
    """Run the paper's protocol: 10,000 rows split 90/10, cosine, top-5 and top-10.

    Lambda is chosen on a validation split of the base, then reported on the queries.
    """
    vectors = load(folder, "wordnet-minilm-384")[0][:10_000]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(vectors))
    base, queries = vectors[order[:9000]], vectors[order[9000:]]
    train, validation = base[:8000], base[8000:]
    ks = [5, 10]
    truths = {
        "validation": GroundTruth.compute(train, validation, 10, "cosine"),
        "queries": GroundTruth.compute(base, queries, 10, "cosine"),
    }
    table = Table(title="RAE as published, 10,000 x 384 -> 96, cosine, 90/10")
    for heading in (
        "method",
        "validation recall@10",
        "recall@5",
        "recall@10",
        "recall@10 minus pca",
        "minus pca-uncentred",
    ):
        table.add_column(heading, no_wrap=True)
    rivals = {
        name: recall_of_fold(PCA(96, center=name == "pca").fit(base).encoder_, truths["queries"], ks, [])
        for name in ("pca", "pca-uncentred")
    }
    for name, judged in rivals.items():
        table.add_row(name, "", *(interval(judged.recall[k]) for k in ks), "", "")
    scored = {}
    for weight_decay in LAMBDAS:
        held = RAE(96, weight_decay=weight_decay).fit(train).encoder_
        scored[weight_decay] = recall_of_fold(held, truths["validation"], ks, []).recall[10].mean
        judged = recall_of_fold(
            RAE(96, weight_decay=weight_decay).fit(base).encoder_, truths["queries"], ks, []
        )
        table.add_row(
            f"rae lambda={weight_decay:g}",
            f"{scored[weight_decay]:.3f}",
            *(interval(judged.recall[k]) for k in ks),
            *(interval(paired_difference(judged, rival, "recall@10")) for rival in rivals.values()),
        )
    console.print(table)
    console.print(f"chosen on the validation split: lambda={max(scored, key=scored.__getitem__):g}")


if __name__ == "__main__":
    folder = data_folder()
    nearfold_against_pca(folder)
    published_rae(folder)
