"""`nearfold eval`: how well a saved encoder keeps neighbours."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nearfold.cli import options as opt

__all__ = ["evaluate"]


def evaluate(
    encoder: opt.EncoderFile,
    base: opt.BaseFile,
    queries: opt.Queries = None,
    query_column: opt.QueryColumn = None,
    n_queries: opt.NQueries = None,
    metric: Annotated[
        opt.MetricName | None,
        typer.Option(help="Metric that neighbours are found by; the encoder's own unless given."),
    ] = None,
    k: opt.Ks = "1,5,10",
    candidates: opt.Candidates = "20,50,100",
    qrels: opt.Qrels = None,
    ids: opt.Ids = None,
    query_ids: opt.QueryIds = None,
    column: opt.Column = None,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure what an encoder keeps of queries' neighbours: recall@k and k-recall@R, by exact search.

    With --qrels also what the queries find of what they look for, beside what the full vectors find: nDCG,
    recall, MRR and MAP.

    BASE may be of any size: it is read once, and nothing of it is held.

    Without --queries rows of BASE are held out as queries. If the encoder was fitted to all of
    BASE it has seen them, so the shares may flatter it: `compare` never lets that happen.
    """
    from nearfold.cli.console import interval, joined, output, print_json, print_mapping, showing_progress
    from nearfold.cli.inputs import read_labels, read_queries
    from nearfold.cli.tables import print_labels
    from nearfold.evaluation.evaluate import evaluate as run
    from nearfold.folds.loading import load_fold
    from nearfold.io.vectors import open_source

    loaded = load_fold(encoder)
    near = loaded.metric if metric is None else metric.value
    labels = read_labels(qrels, base, queries, column, query_column, ids=ids, query_ids=query_ids)
    with showing_progress(quiet or as_json):
        source = open_source(base, column)
        asked = (
            None
            if queries is None
            else read_queries(queries, column, query_column, directions=near == "cosine")
        )
        result = run(
            loaded,
            source,
            asked,
            n_queries=n_queries,
            seed=seed,
            metric=near,
            k=opt.parse_numbers("-k", k),
            n_candidates=opt.parse_numbers("--candidates", candidates),
            qrels=labels,
        )
    results: dict[str, Any] = {
        "encoder": str(encoder),
        "base": str(base),
        "rows": source.layout.rows - (result.n_queries if queries is None else 0),
        "queries_from": "held out of the base" if queries is None else str(queries),
        **result.as_dict(),
    }
    if as_json:
        print_json(results)
        return
    print_mapping({name: value for name, value in results.items() if not isinstance(value, dict)})
    for name, value in result.columns.items():
        output().print(joined(f"{name:<14} ", interval(value)))
    if result.labels is not None:
        print_labels(result.labels, result.n_queries)
