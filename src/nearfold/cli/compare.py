"""`nearfold compare`: every method on the user's own vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli.options import (
    AsJson,
    BaseFile,
    Column,
    Depths,
    Ks,
    NQueries,
    Queries,
    Quiet,
    Seed,
    parse_numbers,
)

__all__ = ["compare"]


def compare(
    base: BaseFile,
    dimensions: Annotated[
        str, typer.Option("--dimensions", "-d", help="To fold to: numbers or shares, comma-separated.")
    ] = "25%",
    methods: Annotated[str, typer.Option(help="Comma-separated names, or all.")] = "all",
    metric: Annotated[str, typer.Option(help="cosine, l2, ip: one or more, comma-separated.")] = "cosine",
    queries: Queries = None,
    n_queries: NQueries = None,
    k: Ks = "1,5,10",
    depths: Depths = "20,50,100",
    save: Annotated[Path | None, typer.Option(help="A folder for the encoders.")] = None,
    column: Column = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit methods on a base and judge each on queries that none of them has seen."""
    from nearfold.arrays import check_metric
    from nearfold.cli.console import print_json, showing_progress
    from nearfold.cli.encoders import save_encoders
    from nearfold.evaluation.compare import compare as run
    from nearfold.io.vectors import read_vectors
    from nearfold.methods.registry import resolve_methods

    names = resolve_methods(methods)
    metrics = [check_metric(name.strip()) for name in metric.split(",")]
    with showing_progress(quiet or as_json):
        comparison = run(
            read_vectors(base, column),
            n_components=[part.strip() for part in dimensions.split(",")],
            methods=names,
            metrics=metrics,
            queries=None if queries is None else read_vectors(queries, column),
            n_queries=n_queries,
            k=parse_numbers("-k", k),
            depths=parse_numbers("--depths", depths),
            seed=seed,
        )
    saved = [] if save is None else save_encoders(comparison, save)
    if as_json:
        print_json({"base": str(base), **comparison.as_dict(), "encoders": [str(path) for path in saved]})
        return
    from nearfold.cli.tables import print_comparison

    print_comparison(comparison)
