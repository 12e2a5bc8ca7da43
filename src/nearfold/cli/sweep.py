"""`nearfold sweep`: RAE over its regularisation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

if TYPE_CHECKING:
    from nearfold.evaluation.sweep import Sweep

__all__ = ["sweep"]


def sweep(
    base: opt.BaseFile,
    dimensions: opt.Dimensions = "25%",
    metric: Annotated[
        opt.MetricName, typer.Option(help="Metric that neighbours are found by.")
    ] = opt.MetricName.cosine,
    lambdas: Annotated[
        str | None,
        typer.Option(help="Values of lambda, comma-separated; a grid from 1e-8 to 1e-1 unless given."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods, comma-separated: rae, rae-exact, rae-mlp (extra torch).")
    ] = "rae,rae-exact",
    regularizer: Annotated[
        str, typer.Option(help="Penalty: frobenius, nuclear, spectral, orthogonality or laplacian.")
    ] = "frobenius",
    queries: opt.Queries = None,
    n_queries: opt.NQueries = None,
    qrels: opt.Qrels = None,
    ids: opt.Ids = None,
    query_ids: opt.QueryIds = None,
    k: opt.Ks = "1,5,10",
    rows: opt.SampleRows = None,
    save: Annotated[
        Path | None,
        typer.Option(help="File to write the encoder to whose lambda is the best on validation."),
        Mark.writes,
    ] = None,
    report: opt.Report = None,
    column: opt.Column = None,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fit RAE at each lambda, choose the best on rows held back, and evaluate it on other rows."""
    from nearfold.cli.console import print_json, showing_progress
    from nearfold.cli.inputs import read_base_and_queries, read_labels
    from nearfold.evaluation.sweep import sweep as run
    from nearfold.methods.rae.estimator import LAMBDA_GRID

    labels = read_labels(qrels, base, queries, column, ids=ids, query_ids=query_ids)
    with showing_progress(quiet or as_json):
        vectors, asked = read_base_and_queries(
            base,
            queries,
            column,
            metric == "cosine",
            n_queries=n_queries,
            rows=rows,
            seed=seed,
            whole=labels is not None,
        )
        result = run(
            vectors,
            n_components=dimensions,
            metric=metric.value,
            weight_decays=LAMBDA_GRID if lambdas is None else opt.parse_floats("--lambdas", lambdas),
            methods=[name.strip() for name in methods.split(",")],
            regularizer=regularizer,
            queries=asked,
            n_queries=n_queries,
            k=opt.parse_numbers("-k", k),
            seed=seed,
            qrels=labels,
        )
    if save is not None:
        best = max(result.chosen, key=lambda name: max(p.recall for p in result.of(name)))
        next(e for e in result.final.entries if e.method == best).encoder.save(save)
    if report is not None:
        from nearfold.report.provenance import command_line, provenance
        from nearfold.report.sweep import sweep_page

        sweep_page(result, provenance(vectors, asked), command_line()).write(report)
    if as_json:
        print_json({"base": str(base), **result.as_dict()})
        return
    _print(result)


def _print(result: Sweep) -> None:
    from rich.table import Table

    from nearfold.cli.console import output, short
    from nearfold.cli.tables import print_comparison

    console = output()
    table = Table(box=None, pad_edge=False)
    for heading in (
        "method",
        "lambda",
        "sigma_max",
        "sigma_min",
        "kappa",
        f"validation recall@{result.k_max}",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for point in result.points:
        best = result.chosen[point.method] == point.weight_decay
        values = ["dead", "", ""] if point.spectrum is None else [f"{v:.4g}" for v in point.spectrum]
        table.add_row(
            point.method,
            f"{point.weight_decay:g}",
            *values,
            "" if point.spectrum is None else short(point.recall),
            style="bold" if best else "",
        )
    console.print(table)
    for name in result.chosen:
        rho = result.rank_correlation(name)
        console.print(f"{name}: rank correlation of kappa with recall@{result.k_max} {rho:+.2f}", style="dim")
    console.print(
        "\nChosen on validation rows, learned again from the whole base, evaluated on other queries:\n"
    )
    print_comparison(result.final)
