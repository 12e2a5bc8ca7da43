"""`nearfold compare`: every method on the user's own vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["compare"]


def compare(
    base: opt.BaseFile,
    dimensions: Annotated[
        str,
        typer.Option(
            "--dimensions", "-d", help="Numbers of dimensions to fold to, or shares of them, comma-separated."
        ),
    ] = "25%,50%,75%",
    methods: Annotated[
        str,
        typer.Option(
            help="Names of methods, comma-separated, or the groups linear and all; see `nearfold methods`."
        ),
    ] = "linear",
    metric: Annotated[str, typer.Option(help="Metrics, comma-separated: cosine, l2, ip, or all.")] = "cosine",
    queries: opt.Queries = None,
    n_queries: opt.NQueries = None,
    qrels: opt.Qrels = None,
    ids: opt.Ids = None,
    query_ids: opt.QueryIds = None,
    k: opt.Ks = "1,5,10",
    candidates: opt.Candidates = "20,50,100",
    rows: opt.SampleRows = None,
    seeds: opt.Seeds = 1,
    save: Annotated[Path | None, typer.Option(help="Folder to save the encoders in."), Mark.writes] = None,
    report: opt.Report = None,
    column: opt.Column = None,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fit methods to a base and evaluate each on queries that none of them has seen."""
    from nearfold._utils.arrays import METRICS, check_metric
    from nearfold.cli.console import print_json, showing_progress
    from nearfold.cli.encoders import save_encoders
    from nearfold.cli.inputs import read_base_and_queries, read_labels
    from nearfold.evaluation.compare import compare as run
    from nearfold.methods.registry import resolve_methods

    names = resolve_methods(methods)
    wanted = METRICS if metric == "all" else [check_metric(name.strip()) for name in metric.split(",")]
    labels = read_labels(qrels, base, queries, column, ids=ids, query_ids=query_ids)
    with showing_progress(quiet or as_json):
        vectors, asked = read_base_and_queries(
            base,
            queries,
            column,
            "cosine" in wanted,
            n_queries=n_queries,
            rows=rows,
            seed=seed,
            whole=labels is not None,
        )
        comparison = run(
            vectors,
            n_components=[part.strip() for part in dimensions.split(",")],
            methods=names,
            metrics=wanted,
            queries=asked,
            k=opt.parse_numbers("-k", k),
            n_candidates=opt.parse_numbers("--candidates", candidates),
            seed=seed,
            n_seeds=seeds,
            qrels=labels,
        )
    saved = [] if save is None else save_encoders(comparison, save)
    if report is not None:
        from nearfold.report.comparison import comparison_page
        from nearfold.report.provenance import command_line, provenance

        title = f"How far {Path(base).name} can be folded"
        comparison_page(comparison, title, provenance(vectors, asked), command_line()).write(report)
    if as_json:
        print_json({"base": str(base), **comparison.as_dict(), "encoders": [str(path) for path in saved]})
        return
    from nearfold.cli.tables import print_comparison

    print_comparison(comparison)
