"""Choices within NearFold's training, on validation rows: the last 1,000 before the held-out queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from data import data_folder, load
from rich.console import Console
from rich.table import Table

from nearfold import NearFold
from nearfold._utils.arrays import Metric
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.recall import recall_of_fold

SEEDS = 3

SETS: list[tuple[str, int, Metric]] = [
    ("wordnet-minilm-384", 96, "cosine"),
    ("wordnet-mpnet-768", 96, "cosine"),
    ("wordnet-mpnet-768", 576, "cosine"),
    ("sift-128", 32, "l2"),
]

CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "k = 32": {"n_neighbors": 32, "n_steps": 300, "blocks_per_step": 32},
    "k = 64, 300 steps of 32 blocks": {"n_steps": 300, "blocks_per_step": 32},
    "2,000 anchors": {"n_anchors": 2000},
    "4,000 anchors": {"n_anchors": 4000},
    "8,000 anchors": {"n_anchors": 8000},
    "rate 4e-3 always": {"learning_rate": 4e-3},
    "rate 1e-3 always": {"learning_rate": 1e-3},
}


def main(folder: Path) -> None:
    table = Table(title=f"validation recall@10, mean of {SEEDS} seeds")
    table.add_column("choice", no_wrap=True)
    bases, truths = [], []
    for name, dims, metric in SETS:
        rows, _ = load(folder, name)
        bases.append(rows[:-1000])
        table.add_column(f"{name} -> {dims}", no_wrap=True)
        truths.append(GroundTruth.compute(rows[:-1000], rows[-1000:], 10, metric))
    for choice, parameters in CHOICES.items():
        row = []
        for (_, dims, metric), base, truth in zip(SETS, bases, truths, strict=True):
            kept = [
                recall_of_fold(
                    NearFold(dims, metric=metric, random_state=seed, **parameters).fit(base).encoder_,
                    truth,
                    [10],
                    [],
                )
                .recall[10]
                .mean
                for seed in range(SEEDS)
            ]
            row.append(f"{np.mean(kept):.4f} ({min(kept):.4f} {max(kept):.4f})")
        table.add_row(choice, *row)
    Console(width=150, highlight=False).print(table)


if __name__ == "__main__":
    main(data_folder())
