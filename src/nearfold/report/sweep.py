"""The page of a sweep: what the penalty does to spectrum and neighbours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nearfold.report.charts import lines
from nearfold.report.comparison import MEASURE, comparison_parts, measure_of_labels
from nearfold.report.page import Cell, Chart, Page, Table, Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from nearfold.evaluation.sweep import Sweep, SweepPoint

__all__ = ["sweep_page"]

Series = dict[str, tuple[list[float], list[float]]]


def sweep_page(result: Sweep, provenance: dict[str, str], command: str) -> Page:
    """Return the page of a sweep over lambda."""
    final = result.final
    dims = final.entries[0].encoder.n_components
    page = Page(
        f"RAE over lambda, {final.n_features} to {dims} dimensions, {final.entries[0].evaluation.metric}",
        f"{len(result.points)} fits with the {result.regularizer} penalty on {result.train:,} rows; chosen "
        f"on {result.validation:,} others, reported on {final.queries:,} more",
        "Lambdas are compared on validation rows held out of the base; the one with the largest "
        f"recall@{result.k_max} is learned again from the whole base and reported on queries that had no "
        "part in choosing. kappa is sigma_max / sigma_min of the encoder; for networks, the median "
        "over Jacobians at data rows. "
        + MEASURE
        + measure_of_labels(final.entries[0].evaluation.labels, final.queries),
        provenance,
        command,
    )
    chosen = ", ".join(f"{name}: {value:g}" for name, value in result.chosen.items())
    ranks = {name: result.rank_correlation(name) for name in result.chosen}
    said = "; ".join(f"{name} {rho:+.2f}" for name, rho in ranks.items() if math.isfinite(rho))
    page.add(
        "Neighbours kept",
        Text(f"Best lambda on the validation rows: {chosen}."),
        Chart(
            _over_lambda(result, lambda p: p.recall, f"recall@{result.k_max}"),
            "On validation rows; 0 where the penalty has left nothing.",
        ),
    )
    page.add(
        "Spectrum",
        Text(
            f"Rank correlation (Spearman) of kappa with recall@{result.k_max}: {said or 'not defined'}. "
            "Below zero means that better conditioned encoders keep more neighbours."
        ),
        Chart(
            _over_lambda(result, lambda p: p.spectrum.kappa if p.spectrum else math.nan, "kappa", log_y=True),
            "The condition number; a gap where a direction is dead (kappa infinite).",
        ),
        Chart(_extremes(result), "The largest and the smallest singular value of the encoder."),
    )
    page.sections += [
        (f"Chosen lambdas, {heading.lower()}", parts) for heading, parts in comparison_parts(final)
    ]
    page.add("All fits", _table(result))
    return page


def _over_lambda(result: Sweep, value: Callable[[SweepPoint], float], y: str, *, log_y: bool = False) -> dict:  # type: ignore[type-arg]
    series: Series = {
        name: ([p.weight_decay for p in result.of(name)], [value(p) for p in result.of(name)])
        for name in result.chosen
    }
    return lines(series, "lambda", y, log_x=True, log_y=log_y)


def _extremes(result: Sweep) -> dict:  # type: ignore[type-arg]
    series: Series = {}
    for name in result.chosen:
        points = [p for p in result.of(name) if p.spectrum is not None]
        at = [p.weight_decay for p in points]
        for which in ("sigma_max", "sigma_min"):
            series[f"{name} {which}"] = (at, [getattr(p.spectrum, which) for p in points])
    return lines(series, "lambda", "singular value", log_x=True)


def _table(result: Sweep) -> Table:
    rows = []
    for p in result.points:
        kept = p.evaluation.recall if p.evaluation else {}
        shares = [Cell(f"{v.mean:.3f}", v.mean) for v in kept.values()]
        values = list(p.spectrum) if p.spectrum else [math.nan] * 3
        rows.append(
            [
                Cell(p.method),
                Cell(f"{p.weight_decay:g}", p.weight_decay),
                *(Cell("" if math.isnan(v) else f"{v:.4g}", v) for v in values),
                *(shares or [Cell("", "")] * len(result.final.entries[0].evaluation.recall)),
            ]
        )
    ks = result.final.entries[0].evaluation.recall
    return Table(
        ["method", "lambda", "sigma_max", "sigma_min", "kappa", *(f"validation recall@{k}" for k in ks)], rows
    )
