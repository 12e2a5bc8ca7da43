"""Draw the documentation's figures, from the bundled sample alone: `make figures`, about three minutes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from nearfold import RAE, compare, evaluate, fit_codec, load_sample
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.planning.halving import judged

HERE = Path(__file__).parent
COLORS = {
    "nearfold": "#00796b",
    "pca-uncentred": "#5c6bc0",
    "pca": "#9fa8da",
    "rae": "#ef6c00",
    "random-gaussian": "#90a4ae",
    "truncation": "#bcaaa4",
}

mpl.rcParams.update(
    {
        "svg.fonttype": "path",
        "svg.hashsalt": "nearfold",
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e0e0e0",
        "legend.frameon": False,
    }
)


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure, with a white ground so that it can be read on a dark page too."""
    figure.tight_layout()
    figure.savefig(HERE / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def dimensions(vectors: np.ndarray) -> None:
    """recall@10 by dimensions and method."""
    sizes = [24, 48, 96, 144, 192, 288]
    names = [name for name in COLORS if name != "rae"]
    found = compare(vectors, methods=names, n_components=sizes, n_queries=500)
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    for name in names:
        entries = [entry for entry in found.entries if entry.method == name]
        estimates = [entry.evaluation.recall[10] for entry in entries]
        axes.plot(sizes, [e.mean for e in estimates], "o-", color=COLORS[name], label=name, lw=2, ms=4)
        axes.fill_between(
            sizes, [e.low for e in estimates], [e.high for e in estimates], color=COLORS[name], alpha=0.15
        )
    axes.set(xlabel="dimensions, of 384", ylabel="recall@10", xticks=sizes, ylim=(0, 1))
    axes.set_title("4,500 sentence embeddings, 500 held-out queries, cosine", fontsize=11)
    axes.legend(loc="lower right")
    save(figure, "dimensions")


def bytes_(base: np.ndarray, queries: np.ndarray) -> None:
    """recall@10 by bytes and kind of codec."""
    truth = GroundTruth.compute(base, queries, 10, "cosine")
    sizes = [12, 24, 48, 96]
    kinds = {
        "fold and additive codes, learned together": ("NearFold192,AQ{}", "#00796b"),
        "fold, then OPQ": ("NearFold192,OPQ{}", "#5c6bc0"),
        "OPQ": ("OPQ{}", "#9fa8da"),
        "PQ": ("PQ{}", "#90a4ae"),
    }
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    for label, (spec, color) in kinds.items():
        kept = [judged(fit_codec(base, spec.format(n)), truth, 10, 0)[0].recall[10].mean for n in sizes]
        axes.plot(sizes, kept, "o-", color=color, label=label, lw=2, ms=4)
    axes.set(xlabel="bytes a vector", ylabel="recall@10", xscale="log", ylim=(0, 1))
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set_title("4,500 sentence embeddings, 500 held-out queries, cosine", fontsize=11)
    axes.legend(loc="lower right")
    save(figure, "bytes")


def lambdas(base: np.ndarray, queries: np.ndarray) -> None:
    """Kappa and recall@10 of RAE along lambda, by Adam and at the optimum."""
    grid = [1e-8, 1e-7, 3e-7, 1e-6, 3e-6, 1e-5]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6))
    for solver, color in (("adam", "#ef6c00"), ("exact", "#00796b")):
        kappas, kept = [], []
        for value in grid:
            encoder = RAE(96, solver=solver, weight_decay=value).fit(base).encoder_
            singular = np.linalg.svd(encoder.weight, compute_uv=False)
            kappas.append(singular[0] / singular[-1])
            kept.append(evaluate(encoder, base, queries).recall[10].mean)
        label = "Adam, as published" if solver == "adam" else "exact optimum"
        left.plot(grid, kappas, "o-", color=color, label=label, lw=2, ms=4)
        right.plot(grid, kept, "o-", color=color, label=label, lw=2, ms=4)
    left.set(xscale="log", xlabel="lambda", ylabel="condition number kappa")
    right.set(xscale="log", xlabel="lambda", ylabel="recall@10")
    right.legend(loc="lower left")
    save(figure, "lambda")


def main() -> None:
    """Draw all."""
    vectors = load_sample().vectors.astype(np.float32)
    base, queries = vectors[:4500], vectors[4500:]
    dimensions(vectors)
    lambdas(base, queries)
    bytes_(base, queries)


if __name__ == "__main__":
    main()
