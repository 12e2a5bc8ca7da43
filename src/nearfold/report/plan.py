"""The page of a plan: what every codec keeps in how many bytes, and which is recommended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearfold.report.charts import dots, scatter
from nearfold.report.comparison import estimate_cell
from nearfold.report.page import Cell, Chart, Page, Part, Table, Text

if TYPE_CHECKING:
    from nearfold.planning.halving import Trial
    from nearfold.planning.plan import Plan

__all__ = ["plan_page"]

_MEASURE = (
    "Queries are held out and no codec has seen them. Codecs are tried in rounds: all on a share of "
    "the rows, the best of them on more, the best of those on all. Only figures of the same round can be "
    "compared with each other. Codes are searched exactly. recall@k is the share of the true k nearest among "
    "the k nearest by codes; k-recall@R the share among the R nearest, which putting R candidates in order "
    "by the vectors recovers. Brackets are 95% confidence intervals over queries. Choosing the best of many "
    "on the same queries flatters the choice a little. Bytes are all that is stored for each vector; "
    "shared bytes are stored once."
)


def plan_page(result: Plan, title: str, provenance: dict[str, str], command: str) -> Page:
    """Return the page of a plan."""
    chosen, error = result.chosen, result.cost_of_error()
    kept = result.kept(chosen)
    page = Page(
        title,
        f"{result.n_queries:,} validation queries, {result.metric}, "
        f"{4 * result.n_features} bytes a vector before",
        _MEASURE,
        provenance,
        command,
    )
    said = (
        f"{chosen.spec}: {chosen.codec.bytes_per_vector} bytes a vector, {result.column} {kept.mean:.3f} "
        f"[{kept.low:.3f} {kept.high:.3f}]."
    )
    if result.reached is False:
        said += " No codec reaches the wanted recall with certainty; this one keeps most."
    parts: list[Part] = [Text(said)]
    if error is not None and result.runner_up is not None:
        parts.append(
            Text(
                f"If {result.runner_up.spec} is the better one after all, at most {max(0.0, error.high):.3f} "
                f"is lost (difference {error.mean:.3f} [{error.low:.3f} {error.high:.3f}])."
            )
        )
    page.add("Recommended", *parts)
    last = max(trial.rung for trial in result.trials)
    front = set(map(id, result.front()))
    for rung in range(last, -1, -1):
        trials = sorted((t for t in result.trials if t.rung == rung), key=lambda t: -t.quality(result.column))
        if not trials:
            continue
        rows = [
            [
                Cell(str(t.spec)),
                Cell(str(t.codec.bytes_per_vector), t.codec.bytes_per_vector),
                estimate_cell(result.kept(t)),
                Cell(f"{t.codec.shared_bytes / 1e6:.1f}", t.codec.shared_bytes),
                Cell(f"{t.fit_seconds:.1f}", t.fit_seconds),
                Cell(f"{t.encode_seconds:.1f}", t.encode_seconds),
                Cell("yes" if id(t) in front else ""),
            ]
            for t in trials
        ]
        headings = ["codec", "bytes", result.column, "shared, MB", "fit, s", "encode, s", "on the front"]
        table = Table(headings, rows, trials.index(chosen) if chosen in trials else None)
        heading = "All rows" if rung == last else f"Left behind in round {rung + 1}"
        chart = _chart(result, trials)
        page.add(f"{heading}: {trials[0].rows:,} rows", *([chart, table] if len(trials) > 1 else [table]))
    if result.failed:
        page.add("Not tried", *(Text(f"{spec}: {reason}", soft=True) for spec, reason in result.failed))
    return page


def _chart(result: Plan, trials: list[Trial]) -> Chart:
    """Return what trials keep against their bytes, or in rows where all are of about one size."""
    names = [str(trial.spec) for trial in trials]
    sizes = [trial.codec.bytes_per_vector for trial in trials]
    seen = f"{trials[0].rows:,} rows"
    if max(sizes) < 2 * min(sizes):
        kept = [result.kept(trial) for trial in trials]
        means, lows, highs = ([getattr(one, part) for one in kept] for part in ("mean", "low", "high"))
        figure = dots(names, {result.column: (means, lows, highs)}, result.column)
        return Chart(figure, f"{seen}; right is better. Lines are 95% intervals.")
    qualities = [trial.quality(result.column) for trial in trials]
    figure = scatter(names, sizes, qualities, "bytes a vector", result.column)
    return Chart(figure, f"{seen}; up and left is better.")
