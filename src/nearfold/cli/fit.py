"""`nearfold fit`: learn an encoder from vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfold.cli.options import (
    DEFAULT_MEMORY,
    AsJson,
    BaseFile,
    Column,
    Memory,
    MetricName,
    Params,
    QueryColumn,
    Quiet,
    Scheduler,
    Seed,
    parse_bytes,
    parse_parameters,
)
from nearfold.cli.paths import Mark

if TYPE_CHECKING:
    from nearfold._utils.arrays import Float32
    from nearfold.folds.fold import Fold
    from nearfold.io.base import Source
    from nearfold.methods.base import FoldEstimator

__all__ = ["fit", "print_fit"]


def fit(
    base: BaseFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the encoder goes (.safetensors)."), Mark.writes
    ],
    dimensions: Annotated[
        str, typer.Option("--dimensions", "-d", help="To fold to: a number, or a share such as 25%.")
    ] = "25%",
    method: Annotated[
        str, typer.Option(help="nearfold, rae, rae-exact, pca, ...: see `nearfold methods`.")
    ] = "nearfold",
    metric: Annotated[
        MetricName, typer.Option(help="What folded vectors are searched with.")
    ] = MetricName.cosine,
    queries: Annotated[
        str | None,
        typer.Option(help="A sample of queries, where they differ in kind from BASE (nearfold only)."),
        Mark.reads,
    ] = None,
    query_column: QueryColumn = None,
    column: Column = None,
    rows: Annotated[
        int | None,
        typer.Option(help="Learn from a sample of so many rows, in memory.", min=2),
    ] = None,
    param: Params = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Keep the scan here: a killed fit goes on from it, `update` starts from it."),
        Mark.changes,
    ] = None,
    watch: Annotated[
        bool, typer.Option(help="Note what `drift` compares with: another fit, below 50,000 rows.")
    ] = True,
    memory: Memory = DEFAULT_MEMORY,
    scheduler: Scheduler = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn an encoder from vectors and save it.

    nearfold, pca, whitening and rae-exact learn from one scan, in bounded memory, here or on a cluster;
    other methods hold all rows, or a sample of --rows.
    """
    from nearfold.bulk.fit import fit_files, scans
    from nearfold.cli.console import showing_progress
    from nearfold.cli.inputs import read_queries
    from nearfold.errors import ParameterError
    from nearfold.io.vectors import open_source
    from nearfold.methods.registry import METHODS, make
    from nearfold.scan.engines import engine_for

    budget = parse_bytes("--memory", memory)
    estimator = make(
        method, dimensions, **{"random_state": seed, "metric": metric.value, **parse_parameters(param)}
    )
    if queries is not None and method != "nearfold":
        raise ParameterError(f"--queries is for method nearfold; {method} learns from the base alone")
    if not METHODS[method].saves:
        raise ParameterError(f"a fold by {method} can't be saved; `nearfold compare` judges it")
    with showing_progress(quiet or as_json):
        source = open_source(base, column)
        encoder: Fold
        seen = None
        if rows is None and scans(estimator, source):
            cosine = estimator.metric == "cosine"
            asked = (
                None if queries is None else read_queries(queries, column, query_column, directions=cosine)
            )
            engine = engine_for(scheduler, budget)
            encoder = fit_files(
                estimator, source, engine, column=column, queries=asked, state=state, watch=watch
            )
        else:
            if state is not None or scheduler is not None or queries is not None:
                raise ParameterError(
                    f"--state, --scheduler and --queries are for methods that scan all rows of a file; "
                    f"{method} {'with --rows ' if rows else ''}learns from rows in memory"
                )
            encoder, seen = _fit_in_memory(estimator, source, rows, seed, budget, watch=watch)
    encoder.save(out)
    print_fit(encoder, out, seen, as_json=as_json)


def _fit_in_memory(
    estimator: FoldEstimator, source: Source, rows: int | None, seed: int, budget: int, *, watch: bool
) -> tuple[Fold, Float32]:
    """Fit to all rows, or a sample of them, if memory allows it; return the fold and the rows."""
    from nearfold.cli.inputs import rows_in_memory
    from nearfold.errors import ParameterError
    from nearfold.evaluation.drift import held_out_drift_stats, with_drift_stats

    layout = source.layout
    wanted = layout.rows if rows is None else min(rows, layout.rows)
    # The rows, what they are read through, and what methods compute from them.
    needed = 3 * wanted * layout.n_features * 4
    if needed > budget:
        raise ParameterError(
            f"this method holds its rows in memory: {wanted} need some {needed / 1e9:.1f}GB; allow it "
            f"with --memory, or give --rows, or use a method that scans (nearfold, pca, whitening, rae-exact)"
        )
    vectors = rows_in_memory(source, rows, seed, directions=estimator.metric == "cosine" and rows is not None)
    fold = estimator.fit(vectors).encoder_
    return with_drift_stats(fold, held_out_drift_stats(estimator, vectors)) if watch else fold, vectors


def print_fit(encoder: Fold, out: Path, seen: Float32 | None = None, *, as_json: bool) -> None:
    """Print what was learned and where it is; a network has its condition number at rows `seen`."""
    from nearfold.cli.console import print_json, print_mapping
    from nearfold.evaluation.spectrum import spectrum_of

    conditioning = spectrum_of(encoder, seen)
    # The statistics that `drift` compares with are many and say little alone.
    facts = {name: value for name, value in encoder.facts.items() if name != "drift_stats"}
    results = {
        "encoder": str(out),
        "method": encoder.method,
        "metric": encoder.metric,
        "dimensions": [encoder.n_features, encoder.n_components],
        "facts": facts,
        "kappa": None if conditioning is None else conditioning.kappa,
    }
    if as_json:
        print_json(results)
        return
    results["dimensions"] = f"{encoder.n_features} -> {encoder.n_components}"
    results["facts"] = ", ".join(f"{name} {value}" for name, value in facts.items())
    print_mapping(results)
