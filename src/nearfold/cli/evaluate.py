"""`nearfold eval`: how well a saved encoder keeps neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nearfold.cli.options import (
    AsJson,
    BaseFile,
    Column,
    Depths,
    Ks,
    MetricName,
    NQueries,
    Queries,
    QueryColumn,
    Quiet,
    Seed,
    parse_numbers,
)
from nearfold.cli.paths import Mark

__all__ = ["evaluate"]


def evaluate(
    encoder: Annotated[
        Path, typer.Argument(help="An encoder that `fit` saved.", metavar="ENCODER"), Mark.reads
    ],
    base: BaseFile,
    queries: Queries = None,
    query_column: QueryColumn = None,
    n_queries: NQueries = None,
    metric: Annotated[
        MetricName | None, typer.Option(help="What near means; the encoder's own unless given.")
    ] = None,
    k: Ks = "1,5,10",
    depths: Depths = "20,50,100",
    column: Column = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Judge an encoder: P@k and recall k-in-R on queries, by exact search, with 95% intervals.

    BASE may be of any size: it is read once, and nothing of it is held.

    Without --queries rows of BASE are held out as queries. If the encoder was fitted on all of
    BASE it has seen them, so the figures may flatter it: `compare` never lets that happen.
    """
    from nearfold._utils.arrays import check_positive
    from nearfold.cli.console import interval, joined, output, print_json, print_mapping, showing_progress
    from nearfold.cli.inputs import read_queries
    from nearfold.evaluation.streamed import evaluate_source, hold_out_rows
    from nearfold.folds.loading import load
    from nearfold.io.vectors import open_source

    loaded = load(encoder)
    near = loaded.metric if metric is None else metric.value
    with showing_progress(quiet or as_json):
        source = open_source(base, column)
        if n_queries is not None:
            check_positive("--n-queries", n_queries)
        held = None
        if queries is None:
            asked, held = hold_out_rows(source, n_queries, seed, directions=near == "cosine")
        else:
            asked = read_queries(queries, column, query_column, directions=near == "cosine")
        judgement = evaluate_source(
            loaded,
            source,
            asked,
            held_out=held,
            metric=None if metric is None else metric.value,
            k=parse_numbers("-k", k),
            depths=parse_numbers("--depths", depths),
        )
    results: dict[str, Any] = {
        "encoder": str(encoder),
        "base": str(base),
        "rows": source.layout.rows - (0 if held is None else len(held)),
        "queries_from": "held out of the base" if queries is None else str(queries),
        **judgement.as_dict(),
    }
    if as_json:
        print_json(results)
        return
    rows = {name: value for name, value in results.items() if not isinstance(value, dict)}
    print_mapping(rows)
    console = output()
    for kept in (judgement.preservation, judgement.recall):
        for count, value in kept.items():
            name = f"P@{count}" if kept is judgement.preservation else f"{judgement.k_max}-in-{count}"
            console.print(joined(f"{name:<12} ", interval(value)))
