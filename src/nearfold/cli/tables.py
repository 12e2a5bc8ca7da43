"""Comparisons and labels as tables for a terminal."""

from __future__ import annotations

from itertools import groupby

from rich.table import Table

from nearfold.cli.console import interval, output, short
from nearfold.evaluation.compare import Comparison, ComparisonEntry
from nearfold.evaluation.labels import LabelResult
from nearfold.evaluation.spectrum import spectrum_of

__all__ = ["LABELS", "print_comparison", "print_labels"]

LABELS = (
    "Labels: means over {judged:,} of {queries:,} queries, those with a relevant document; R@k: share of a "
    "query's relevant documents among its first k; kept: divided by the full vectors' figure, paired."
)


def print_labels(labels: LabelResult, n_queries: int) -> None:
    """Print one table of what labelled queries find after folding and before."""
    console = output()
    table = Table(box=None, pad_edge=False)
    table.add_column("labels", no_wrap=True)
    for heading in ("folded", "full vectors", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, value in labels.values.items():
        table.add_row(name, interval(value), interval(labels.full[name]), interval(labels.kept[name]))
    console.print()
    console.print(table)
    console.print(LABELS.format(judged=labels.n_judged, queries=n_queries), style="dim")


def _print_compared_labels(comparison: Comparison, group: list[ComparisonEntry]) -> None:
    """Print what labelled queries find by each method, and by the full vectors, if there are labels."""
    best = max(group, key=lambda e: e.evaluation.recall[e.evaluation.k_max].mean)
    first = best.evaluation.labels
    if first is None:
        return
    leading, *others = first.main_columns
    table = Table(box=None, pad_edge=False)
    for heading in ("method", leading, f"{leading} kept", *others, f"{leading} to {best.method}"):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for entry in group:
        labels = entry.evaluation.labels
        assert labels is not None
        gap = comparison.difference(entry, best, leading)
        table.add_row(
            entry.method,
            interval(labels.values[leading]),
            interval(labels.kept[leading]),
            *(short(labels.values[name].mean) for name in others),
            "" if entry is best else interval(gap),
            style="bold" if entry is best else "",
        )
    found = first.full
    full = (short(found[name].mean) for name in others)
    table.add_row("full vectors", interval(found[leading]), "", *full, "", style="dim")
    output().print(table)
    output().print()


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
        _print_compared_labels(comparison, group)
    for entry in comparison.entries:
        for remark in entry.remarks:
            console.print(f"{entry.method}, {entry.encoder.n_components} dimensions: {remark}")
    console.print(
        f"{comparison.queries:,} held-out queries against {comparison.rows:,} rows, exact search; "
        f"recall@k: share of the true top k among the reduced top k; k-recall@R: among the reduced top R; "
        f"95% confidence intervals, differences paired.",
        style="dim",
    )
    labels = comparison.entries[0].evaluation.labels if comparison.entries else None
    if labels is not None:
        console.print(LABELS.format(judged=labels.n_judged, queries=comparison.queries), style="dim")
