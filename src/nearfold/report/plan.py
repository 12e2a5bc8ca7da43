"""The page of a plan: what every codec keeps in how many bytes, and which is recommended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearfold.report.charts import dots, scatter
from nearfold.report.comparison import estimate_cell, measure_of_labels
from nearfold.report.page import Beside, Cell, Chart, Page, Part, Table, Text

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
        _MEASURE + _told_of_labels(result),
        provenance,
        command,
    )
    said = (
        f"{chosen.spec}: {chosen.codec.bytes_per_vector} bytes a vector, {result.measures[result.column]} "
        f"{kept.mean:.3f} [{kept.low:.3f} {kept.high:.3f}]."
    )
    if result.reached is False:
        said += " No codec reaches the wanted share with certainty; this one keeps most."
    parts: list[Part] = [Text(said)]
    if error is not None and result.runner_up is not None:
        parts.append(
            Text(
                f"If {result.runner_up.spec} is the better one after all, at most {max(0.0, error.high):.3f} "
                f"of {result.column} is lost (difference {error.mean:.3f} "
                f"[{error.low:.3f} {error.high:.3f}])."
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
                *(estimate_cell(t.evaluation.kept(column)) for column in result.measures),
                Cell(f"{t.codec.shared_bytes / 1e6:.1f}", t.codec.shared_bytes),
                Cell(f"{t.fit_seconds:.1f}", t.fit_seconds),
                Cell(f"{t.encode_seconds:.1f}", t.encode_seconds),
                Cell("yes" if id(t) in front else ""),
            ]
            for t in trials
        ]
        measured = result.measures.values()
        headings = ["codec", "bytes", *measured, "shared, MB", "fit, s", "encode, s", "on the front"]
        table = Table(headings, rows, trials.index(chosen) if chosen in trials else None)
        heading = "All rows" if rung == last else f"Left behind in round {rung + 1}"
        charts = [_chart(result, trials, column) for column in result.measures]
        chart = Beside(charts) if len(charts) > 1 else charts[0]
        page.add(f"{heading}: {trials[0].rows:,} rows", *([chart, table] if len(trials) > 1 else [table]))
    if result.failed:
        page.add("Not tried", *(Text(f"{spec}: {reason}", soft=True) for spec, reason in result.failed))
    return page


def _told_of_labels(result: Plan) -> str:
    """Return how labels were measured, if there are any."""
    labels = result.chosen.evaluation.labels
    if labels is None:
        return ""
    order = (
        f"the {result.n_candidates} first by codes in order of the vectors, and the rest behind them"
        if result.n_candidates
        else "in order of the codes"
    )
    return (
        f"{measure_of_labels(labels, result.n_queries)} Documents are ranked {order}. The rows of every "
        "round hold all relevant documents."
    )


def _chart(result: Plan, trials: list[Trial], column: str) -> Chart:
    """Return what trials keep against their bytes, or in rows where all are of about one size."""
    names = [str(trial.spec) for trial in trials]
    sizes = [trial.codec.bytes_per_vector for trial in trials]
    seen, name = f"{trials[0].rows:,} rows", result.measures[column]
    if max(sizes) < 2 * min(sizes):
        kept = [trial.evaluation.kept(column) for trial in trials]
        means, lows, highs = ([getattr(one, part) for one in kept] for part in ("mean", "low", "high"))
        figure = dots(names, {name: (means, lows, highs)}, name)
        return Chart(figure, f"{seen}; right is better. Lines are 95% intervals.")
    qualities = [trial.quality(column) for trial in trials]
    figure = scatter(names, sizes, qualities, "bytes a vector", name)
    return Chart(figure, f"{seen}; up and left is better.")
