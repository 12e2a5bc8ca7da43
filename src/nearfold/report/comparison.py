"""The page of a comparison: which method keeps most, at which size and price."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from nearfold.evaluation.spectrum import spectrum_of
from nearfold.methods.registry import METHODS
from nearfold.report.charts import dots, scatter
from nearfold.report.page import Beside, Cell, Chart, Page, Part, Table, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nearfold.evaluation.compare import Comparison, ComparisonEntry
    from nearfold.evaluation.intervals import Estimate
    from nearfold.evaluation.labels import LabelResult

__all__ = ["MEASURE", "comparison_page", "comparison_parts", "estimate_cell", "measure_of_labels"]

MEASURE = (
    "Queries are held out and no method has seen them. The ground truth is an exact search in all "
    "dimensions, with equally near rows all counted as right. recall@k is the share of the true k nearest "
    "that are among the k nearest after folding; k-recall@R is the share of them among the R nearest, which "
    "an exact re-rank of R candidates recovers. Brackets are 95% confidence intervals over queries; "
    "differences between methods are paired by query. "
    "Times are wall time of one run on this machine. Places that Isomap, UMAP and MDS give to rows are "
    "searched with Euclidean distance, whatever the rows were near in."
)


def measure_of_labels(labels: LabelResult | None, n_queries: int) -> str:
    """Return how labels were measured, in sentences, or nothing if there are none."""
    if labels is None:
        return ""
    return (
        f" Labels say which documents answer a query; {labels.n_judged:,} of the {n_queries:,} queries have "
        "a relevant one, and the others are left out. nDCG@k, MRR@k and MAP@100 are trec_eval's, with the "
        "grade as the gain; R@k is the share of a query's relevant documents among its first k. Documents of "
        "equal score are ranked by row number. Kept is the figure divided by that of an exact search of the "
        "full vectors, with a paired interval."
    )


def estimate_cell(value: Estimate) -> Cell:
    """Return a mean with its interval as a cell."""
    return Cell(f"{value.mean:.3f}", value.mean, f"[{value.low:.3f} {value.high:.3f}]")


def _table(comparison: Comparison, group: Sequence[ComparisonEntry]) -> Table:
    k_max = group[0].evaluation.k_max
    best = max(group, key=lambda e: e.evaluation.recall[k_max].mean)
    first = group[0].evaluation.labels
    headings = [
        "method",
        *(f"recall@{k}" for k in group[0].evaluation.recall),
        *_label_headings(first),
        *(f"{k_max}-recall@{r}" for r in group[0].evaluation.candidate_recall),
        "to best",
        "kappa",
        "fit, s",
        "fold base, s",
    ]
    if any(len(e.by_seed) > 1 for e in group):
        headings.append("seeds")
    rows = []
    for entry in group:
        spectrum = spectrum_of(entry.encoder)
        gap = comparison.difference(entry, best, f"recall@{k_max}")
        row = [
            Cell(entry.method),
            *(
                estimate_cell(v) if k == k_max else Cell(f"{v.mean:.3f}", v.mean)
                for k, v in entry.evaluation.recall.items()
            ),
            *_label_cells(entry.evaluation.labels),
            *(Cell(f"{v.mean:.3f}", v.mean) for v in entry.evaluation.candidate_recall.values()),
            Cell("", 0.0) if entry is best else estimate_cell(gap),
            Cell("", "") if spectrum is None else Cell(f"{spectrum.kappa:.3g}", spectrum.kappa),
            Cell(f"{entry.fit_seconds:.2f}", entry.fit_seconds),
            Cell(f"{entry.transform_seconds:.2f}", entry.transform_seconds),
        ]
        if len(headings) > len(row):
            seeds = entry.by_seed
            spread = f"{min(seeds):.3f} to {max(seeds):.3f}" if len(seeds) > 1 else ""
            row.append(Cell(str(len(seeds)), len(seeds), spread))
        rows.append(row)
    if first is not None:
        # What the full vectors find, which the shares kept are of.
        labels = dict(zip(_label_headings(first), _label_cells(first, full=True), strict=True))
        rows.append([Cell("full vectors"), *(labels.get(name, Cell("", "")) for name in headings[1:])])
    return Table(headings, rows, list(group).index(best))


def _label_headings(labels: LabelResult | None) -> list[str]:
    if labels is None:
        return []
    leading, *others = labels.main_columns
    return [f"{leading} kept", leading, *others]


def _label_cells(labels: LabelResult | None, *, full: bool = False) -> list[Cell]:
    """Return what labelled queries find after folding, or with the full vectors."""
    if labels is None:
        return []
    leading, *others = labels.main_columns
    values = labels.full if full else labels.values
    return [
        Cell("", "") if full else estimate_cell(labels.kept[leading]),
        estimate_cell(values[leading]),
        *(Cell(f"{values[name].mean:.3f}", values[name].mean) for name in others),
    ]


def _charts(comparison: Comparison, metric: str) -> list[Part]:
    entries = [e for e in comparison.entries if e.evaluation.metric == metric]
    k_max = entries[0].evaluation.k_max
    methods = list(dict.fromkeys(e.method for e in entries))
    dims = sorted({e.encoder.n_components for e in entries})

    def kept(e: ComparisonEntry) -> Estimate:
        return e.evaluation.recall[k_max]

    by = {(e.method, e.encoder.n_components): e for e in entries}
    methods.sort(key=lambda m: -sum(kept(by[m, c]).mean for c in dims))

    def chart(value: Callable[[ComparisonEntry], Estimate], x: str, caption: str) -> Chart:
        series = {}
        for c in dims:
            values = [value(by[m, c]) for m in methods]
            series[f"{c} dimensions"] = tuple(
                [getattr(v, part) for v in values] for part in ("mean", "low", "high")
            )
        figure = dots(methods, series, x)  # type: ignore[arg-type]
        return Chart(figure, f"{caption}, with 95% intervals; further right is better.", height)

    height = 120 + 34 * len(methods)
    neighbors = chart(kept, f"recall@{k_max}", f"Share of the true {k_max} nearest kept")
    labels = entries[0].evaluation.labels
    shown: Part = neighbors
    if labels is not None:
        column = labels.main_columns[0]
        found = f"Share of the full vectors' {column} kept"
        shown = Beside([neighbors, chart(lambda e: e.evaluation.kept(column), f"{column} kept", found)])
    smallest = [by[m, dims[0]] for m in methods]
    return [
        shown,
        Chart(
            scatter(
                methods,
                [max(e.fit_seconds, 1e-3) for e in smallest],
                [kept(e).mean for e in smallest],
                "seconds to learn",
                f"recall@{k_max}",
            ),
            f"What a fold to {dims[0]} dimensions keeps against the time to learn it; up and left is better.",
        ),
    ]


def comparison_parts(comparison: Comparison) -> list[tuple[str, list[Part]]]:
    """Return headings and parts: a section a metric, a table a number of dimensions."""
    sections = []
    for metric, entries in groupby(comparison.entries, lambda e: e.evaluation.metric):
        parts = _charts(comparison, metric)
        for dims, group in groupby(entries, lambda e: e.encoder.n_components):
            members = list(group)
            parts += [
                Text(f"{comparison.n_features} to {dims} dimensions:"),
                _table(comparison, members),
            ]
        sections.append((f"Searched by {metric}", parts))
    remarks: dict[str, None] = {}
    for entry in comparison.entries:
        for remark in entry.remarks:
            remarks[f"{entry.method}, {entry.encoder.n_components} dimensions: {remark}"] = None
        if (how := entry.encoder.known_facts.new_rows) is not None:
            remarks[f"{entry.method}: new rows are mapped {how}."] = None
    if remarks:
        sections.append(("Remarks", [Text(remark, soft=True) for remark in remarks]))
    return sections


def comparison_page(comparison: Comparison, title: str, provenance: dict[str, str], command: str) -> Page:
    """Return the page of a comparison."""
    page = Page(
        title,
        f"{comparison.queries:,} held-out queries against {comparison.rows:,} rows of "
        f"{comparison.n_features} dimensions, exact search",
        MEASURE + measure_of_labels(comparison.entries[0].evaluation.labels, comparison.queries),
        provenance,
        command,
        comparison_parts(comparison),
    )
    named = dict.fromkeys(e.method for e in comparison.entries)
    rows = [[Cell(name), Cell(METHODS[name].summary)] for name in named]
    page.add("The methods", Table(["name", "what it is"], rows))
    return page
