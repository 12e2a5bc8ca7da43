"""The page of one fold: spectrum, distortion, angles, bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nearfold._utils.arrays import Float64, Int64
from nearfold.evaluation.drift import readable_facts
from nearfold.report.charts import distributions, lines
from nearfold.report.comparison import MEASURE, estimate_cell
from nearfold.report.page import Cell, Chart, Page, Table, Text

if TYPE_CHECKING:
    from nearfold.evaluation.inspection import Inspection

__all__ = ["inspection_page"]

_BINS = 60


def inspection_page(inspection: Inspection, name: str, provenance: dict[str, str], command: str) -> Page:
    """Return the page of a fold called `name`."""
    fold = inspection.fold
    page = Page(
        f"{name}: {fold.method or 'a fold'}, {fold.n_features} to {fold.n_components} dimensions",
        f"looked at on {inspection.rows:,} rows, searched by {fold.metric}",
        MEASURE + " Queries may have been trained on if the fold was fitted on all of these vectors.",
        provenance,
        command,
    )
    page.add(
        "Neighbours kept",
        Table(
            ["measure", "share"],
            [[Cell(c), estimate_cell(v)] for c, v in inspection.evaluation.columns.items()],
        ),
    )
    spectrum = inspection.spectrum
    if inspection.singular_values is not None and spectrum is not None:
        values = inspection.singular_values
        page.add(
            "Spectrum",
            Text(
                f"Singular values of W from {spectrum.sigma_max:.4g} to {spectrum.sigma_min:.4g}: condition "
                f"number kappa {spectrum.kappa:.4g}. W drops {inspection.null_energy or 0:.1%} of the "
                "vectors' energy, of which kappa says nothing. Its rows are "
                f"{inspection.gram_distance:.3f} from scaled orthonormal ones."
            ),
            Chart(
                lines({"W": (list(range(1, len(values) + 1)), values.tolist())}, "rank", "singular value"),
                "Singular values of W, largest first.",
            ),
        )
    ratios = inspection.distortion._asdict()
    page.add(
        "Distortion of lengths",
        Text(
            "Ratios |Wd| / |d| of differences between rows, over neighbours and over random pairs. Dotted: "
            "the interval of singular values, which bounds the ratio for differences that W keeps whole; "
            "differences of data lose a part to W's null space and fall short of it."
        ),
        Chart(
            _histograms(
                {f"{kind} pairs": values for kind, values in ratios.items()},
                None if spectrum is None else (spectrum.sigma_min, spectrum.sigma_max),
            ),
            "Share of pairs by ratio.",
        ),
    )
    if inspection.angles is not None:
        degrees = np.degrees(inspection.angles)
        page.add(
            "Angles to principal axes",
            Chart(
                lines({"angle": (list(range(1, len(degrees) + 1)), degrees.tolist())}, "rank", "degrees"),
                "Principal angles between W's row space and that of as many principal axes: 0 is a direction "
                "that both keep.",
            ),
        )
    if inspection.bounds is not None:
        proven, candidates = inspection.bounds
        share = candidates.mean() / inspection.rows
        page.add(
            "Bounds of scores",
            Text(
                f"From folded vectors and residual norms alone, {proven.mean():.2f} of each query's "
                f"{inspection.k} nearest are proven right on average. A re-rank that must be certain reads "
                f"{candidates.mean():,.0f} rows a query ({share:.1%} of all) on average, "
                f"{np.median(candidates):,.0f} in the median."
            ),
            Chart(
                _shares(np.sort(candidates), inspection.rows),
                "Share of queries whose true neighbours are certain once that share of the base is read.",
            ),
        )
    facts = {**fold.parameters, **readable_facts(fold)}
    page.add(
        "How it was learned", Table(["what", "value"], [[Cell(k), Cell(str(v))] for k, v in facts.items()])
    )
    return page


def _histograms(series: dict[str, Float64], band: tuple[float, float] | None) -> dict[str, Any]:
    present = {name: values for name, values in series.items() if len(values)}
    if not present:
        return distributions({}, band)
    low = min(float(v.min()) for v in present.values())
    high = max(float(v.max()) for v in present.values())
    edges = np.linspace(low, max(high, low + 1e-9), _BINS + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    shares = {
        name: (middles, (np.histogram(values, edges)[0] / len(values)).tolist())
        for name, values in present.items()
    }
    return distributions(shares, band)


def _shares(candidates: Int64, rows: int) -> dict[str, Any]:
    picked = np.unique(np.linspace(0, len(candidates) - 1, 200).astype(int))
    read = (candidates[picked] / rows).tolist()
    done = ((picked + 1) / len(candidates)).tolist()
    return lines({"queries": (read, done)}, "share of the base read", "share of queries certain")
