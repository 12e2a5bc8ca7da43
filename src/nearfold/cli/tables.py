"""Comparisons as tables for a terminal."""

from __future__ import annotations

from itertools import groupby

from rich.table import Table

from nearfold.cli.console import interval, output, short
from nearfold.evaluation.compare import Comparison
from nearfold.evaluation.spectrum import spectrum_of

__all__ = ["print_comparison"]


def print_comparison(comparison: Comparison) -> None:
    """Print one table a metric and dimension, the best in bold and the rest's distance to it."""
    console = output()
    for (metric, dims), entries in groupby(
        comparison.entries, lambda e: (e.evaluation.metric, e.encoder.n_components)
    ):
        group = list(entries)
        best = max(group, key=lambda e: e.evaluation.recall[e.evaluation.k_max].mean)
        k_max = best.evaluation.k_max
        table = Table(
            title=f"{metric}, {comparison.n_features} -> {dims} dimensions",
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
        )
        table.add_column("method", no_wrap=True)
        for k in best.evaluation.recall:
            table.add_column(f"recall@{k}", justify="right", no_wrap=True)
        for count in best.evaluation.candidate_recall:
            table.add_column(f"{k_max}-recall@{count}", justify="right")
        table.add_column("to best", justify="right", no_wrap=True)
        table.add_column("kappa", justify="right")
        table.add_column("fit s", justify="right")
        table.add_column("fold s", justify="right")
        for entry in group:
            kept = entry.evaluation.recall
            cells = [interval(value) if k == k_max else short(value.mean) for k, value in kept.items()]
            cells += [short(value.mean) for value in entry.evaluation.candidate_recall.values()]
            gap = comparison.difference(entry, best, f"recall@{k_max}")
            cells += ["" if entry is best else interval(gap)]
            # Networks have a condition number a point: sweep and inspect, which see the data, show it.
            conditioning = spectrum_of(entry.encoder)
            cells += ["" if conditioning is None else f"{conditioning.kappa:.3g}"]
            cells += [f"{entry.fit_seconds:.2f}", f"{entry.transform_seconds:.2f}"]
            table.add_row(entry.method, *cells, style="bold" if entry is best else "")
        console.print(table)
        console.print()
    for entry in comparison.entries:
        for remark in entry.remarks:
            console.print(f"{entry.method}, {entry.encoder.n_components} dimensions: {remark}")
    console.print(
        f"{comparison.queries:,} held-out queries against {comparison.rows:,} rows, exact search; "
        f"recall@k: share of the true top k among the reduced top k; k-recall@R: among the reduced top R; "
        f"95% confidence intervals, differences paired.",
        style="dim",
    )
