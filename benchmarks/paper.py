"""The claims of the RAE paper (arXiv 2509.25839) and what it leaves open, on real vectors.

10,000 rows of each set, 90/10, cosine, 25% of the dimensions. Lambdas are chosen on rows held out of
the base; the figures reported are of queries that had no part in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import data_folder
from rich.console import Console
from rich.table import Table

from nearfold import RAE, NearFold, inspect, sweep
from nearfold._utils.arrays import Float32, Metric
from nearfold.cli.console import interval
from nearfold.evaluation.compare import ComparisonEntry
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.inspection import Inspection
from nearfold.evaluation.recall import paired_difference, recall_of_fold
from nearfold.evaluation.split import hold_out
from nearfold.evaluation.sweep import Sweep
from nearfold.methods.base import LinearFold
from nearfold.methods.pca import PCA
from nearfold.methods.rae.regularizers import REGULARIZERS

console = Console(width=230, highlight=False)

SETS = ("wordnet-minilm-384", "wordnet-mpnet-768", "sift-128")
ROWS = 10_000


def rows_of(folder: Path, name: str) -> Float32:
    # Rows of norm 1 keep lambda's scale the same for all sets; cosine doesn't see it.
    vectors = np.load(folder / f"{name}.npy")[:ROWS].astype(np.float32)
    scaled: Float32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def heading(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def entry_of(result: Sweep, method: str) -> ComparisonEntry:
    return next(e for e in result.final.entries if e.method == method)


def sweeps(folder: Path) -> None:
    """RAE against PCA at the lambda chosen, and kappa along lambda."""
    table = heading(
        "RAE at the lambda chosen on validation rows, recall@10 of 1,000 held-out queries",
        *(
            "data",
            "method",
            "lambda",
            "recall@10",
            "minus pca",
            "minus pca-uncentred",
            "rank corr. kappa, recall@10",
        ),
    )
    path = heading("kappa along lambda", "data", "method", "lambda: kappa (validation recall@10)")
    for name in SETS:
        result = sweep(rows_of(folder, name))
        for method in ("pca", "pca-uncentred", *result.chosen):
            entry = entry_of(result, method)
            gaps = [
                interval(paired_difference(entry.evaluation, entry_of(result, rival).evaluation, "recall@10"))
                for rival in ("pca", "pca-uncentred")
            ]
            chosen = result.chosen.get(method)
            table.add_row(
                name,
                method,
                "" if chosen is None else f"{chosen:g}",
                interval(entry.evaluation.recall[10]),
                *gaps,
                "" if chosen is None else f"{result.rank_correlation(method):+.2f}",
            )
        for method in result.chosen:
            points = ", ".join(
                f"{p.weight_decay:g}: {p.spectrum.kappa:.3g} ({p.recall:.3f})"
                for p in result.of(method)
                if p.spectrum is not None and p.weight_decay <= 1e-4
            )
            path.add_row(name, method, points)
    console.print(table)
    console.print(path)


def networks(folder: Path) -> None:
    """Non-linear encoders: one and two hidden layers, beside a linear map and alone."""
    from nearfold import MLPRAE

    base, queries = hold_out(rows_of(folder, SETS[0]))
    truth = GroundTruth.compute(base, queries, 10, "cosine")
    table = heading(
        f"ReLU encoders, {SETS[0]}, 384 -> 96, lambda 1e-6", "encoder", "recall@10", "minus linear RAE"
    )
    linear = recall_of_fold(RAE().fit(base).encoder_, truth, [10], [])
    table.add_row("linear", interval(linear.recall[10]), "")
    for hidden in (1, 2):
        for residual in (True, False):
            fold = MLPRAE(n_hidden=hidden, residual=residual).fit(base).encoder_
            judged = recall_of_fold(fold, truth, [10], [])
            table.add_row(
                f"{hidden} hidden{', residual' if residual else ''}",
                interval(judged.recall[10]),
                interval(paired_difference(judged, linear, "recall@10")),
            )
    console.print(table)
    result = sweep(
        rows_of(folder, SETS[0]), methods=["rae-mlp"], weight_decays=[1e-7, 1e-6, 3e-6, 1e-5, 3e-5]
    )
    points = ", ".join(
        f"{p.weight_decay:g}: {p.spectrum.kappa:.3g} ({p.recall:.3f})"
        for p in result.of("rae-mlp")
        if p.spectrum is not None
    )
    console.print(f"rae-mlp, lambda: median local kappa (validation recall@10): {points}")
    console.print(f"rank correlation of kappa with recall@10: {result.rank_correlation('rae-mlp'):+.2f}")


def regularizers(folder: Path) -> None:
    """Every regulariser at its best lambda, by Adam and at its exact optimum."""
    table = heading(
        f"Regularisers, {SETS[0]}, 384 -> 96",
        *("regulariser", "solver", "lambda", "recall@10", "minus pca-uncentred"),
    )
    X = rows_of(folder, SETS[0])
    for name in REGULARIZERS:
        result = sweep(X, regularizer=name, weight_decays=[1e-7, 1e-6, 1e-5, 1e-4])
        rival = entry_of(result, "pca-uncentred")
        for method, chosen in result.chosen.items():
            entry = entry_of(result, method)
            gap = paired_difference(entry.evaluation, rival.evaluation, "recall@10")
            kept = interval(entry.evaluation.recall[10])
            table.add_row(name, method, f"{chosen:g}", kept, interval(gap))
    console.print(table)


def bounds(folder: Path) -> None:
    """Look at W: what it keeps, drops and proves at 25%, 50% and 75% of the dimensions."""
    table = heading(
        "Distortion and bounds",
        *("data", "fold", "method", "kappa", "sigma", "|Wd|/|d| neighbours", "random", "energy dropped"),
        *("angle to PCA", "proven of 10", "certified re-rank reads"),
    )
    metrics: list[tuple[str, Metric]] = [(SETS[0], "cosine"), (SETS[1], "cosine"), (SETS[2], "l2")]
    for name, metric in metrics:
        base, queries = hold_out(rows_of(folder, name))
        for share in ("25%", "50%", "75%"):
            estimators: list[tuple[str, LinearFold]] = [
                ("pca", PCA(share, center=metric == "l2", metric=metric)),
                ("rae", RAE(share, metric=metric)),
                ("nearfold", NearFold(share, metric=metric)),
            ]
            for method, estimator in estimators:
                seen = inspect(estimator.fit(base).encoder_, base, queries)
                table.add_row(name, share, method, *_looks(seen))
    console.print(table)


def _looks(seen: Inspection) -> list[str]:
    assert seen.spectrum is not None
    assert seen.angles is not None
    assert seen.bounds is not None
    assert seen.null_energy is not None
    ranges = [
        f"{np.median(r):.2f} ({np.quantile(r, 0.01):.2f} {np.quantile(r, 0.99):.2f})" for r in seen.distortion
    ]
    read = seen.bounds.candidates.mean() / seen.rows
    return [
        f"{seen.spectrum.kappa:.3g}",
        f"{seen.spectrum.sigma_min:.2f} {seen.spectrum.sigma_max:.2f}",
        *ranges,
        f"{seen.null_energy:.1%}",
        f"{np.degrees(np.median(seen.angles)):.0f} ({np.degrees(seen.angles.max()):.0f})",
        f"{seen.bounds.proven.mean():.2f}",
        f"{read:.1%}",
    ]


if __name__ == "__main__":
    folder = data_folder()
    bounds(folder)
    sweeps(folder)
    regularizers(folder)
    networks(folder)
