"""`nearfold fit`: learn an encoder from vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

if TYPE_CHECKING:
    from nearfold._utils.arrays import Float32
    from nearfold.folds.fold import Fold
    from nearfold.io.base import Source
    from nearfold.methods.base import FoldEstimator

__all__ = ["fit", "print_fit"]


def fit(
    base: opt.BaseFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write the encoder to (.safetensors)."), Mark.writes
    ],
    dimensions: opt.Dimensions = "25%",
    method: Annotated[
        str, typer.Option(help="Method that learns the encoder; `nearfold methods` lists them.")
    ] = "nearfold",
    metric: Annotated[
        opt.MetricName, typer.Option(help="Metric that the folded vectors are searched with.")
    ] = opt.MetricName.cosine,
    queries: Annotated[
        str | None,
        typer.Option(
            help="File with a sample of queries, where they differ in kind from BASE (method nearfold only)."
        ),
        Mark.reads,
    ] = None,
    query_column: opt.QueryColumn = None,
    column: opt.Column = None,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Number of rows to learn from, drawn at random and held in memory; all rows unless given.",
            min=2,
        ),
    ] = None,
    param: opt.Params = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="File to keep the scan in: a killed fit is resumed from it, `update` adds rows to it."
        ),
        Mark.changes,
    ] = None,
    drift_baseline: Annotated[
        bool,
        typer.Option(help="Note what `drift` compares with, which takes another fit below 50,000 rows."),
    ] = True,
    memory: opt.Memory = opt.DEFAULT_MEMORY,
    scheduler: opt.Scheduler = None,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Learn an encoder from vectors and save it.

    nearfold, pca, whitening, spectemp and rae-exact learn from one scan, in bounded memory, here or on a
    cluster. Other methods hold their rows in memory: of a file that needs more than --memory they draw a
    sample.
    """
    from nearfold.cli.console import showing_progress
    from nearfold.cli.inputs import read_queries
    from nearfold.errors import ParameterError
    from nearfold.evaluation.drift import add_drift_stats
    from nearfold.io.held import held_rows
    from nearfold.io.vectors import open_source
    from nearfold.methods.registry import METHODS, make
    from nearfold.methods.scanned import ScanFold

    estimator = make(
        method, dimensions, **{"random_state": seed, "metric": metric.value, **opt.parse_parameters(param)}
    )
    if queries is not None and method != "nearfold":
        raise ParameterError(f"--queries is for method nearfold; {method} learns from the base alone")
    if not METHODS[method].saves:
        raise ParameterError(f"a fold by {method} can't be saved; `nearfold compare` judges it")
    cosine = estimator.metric == "cosine"
    with showing_progress(quiet or as_json), opt.configured(memory, scheduler):
        X: Any = open_source(base, column)
        seen = None
        if rows is not None or (queries is None and not _scans(estimator, X)):
            if scheduler is not None:
                raise ParameterError(
                    f"--scheduler is for methods that scan all rows of a file; {method} "
                    f"{'with --rows ' if rows else ''}learns from rows in memory"
                )
            # Held once, for the fit, the drift baseline and the condition number of a network.
            directions: Any = "sampled" if cosine and rows is None else cosine
            X = seen = held_rows(X, rows, seed=seed, directions=directions)
        options: dict[str, Any] = {}
        if queries is not None:
            options["queries"] = read_queries(queries, column, query_column, directions=cosine)
        if checkpoint is not None:
            if not issubclass(METHODS[method].estimator, ScanFold):
                raise ParameterError(f"checkpoint is for methods that scan their data; {method} does not")
            options["checkpoint"] = checkpoint
        fold = estimator.fit(X, **options).encoder_
        if drift_baseline:
            fold = add_drift_stats(fold, estimator, X, queries=options.get("queries"))
    fold.save(out)
    print_fit(fold, out, seen, as_json=as_json)


def _scans(estimator: FoldEstimator, source: Source) -> bool:
    """Return whether an estimator learns from one scan of a source, or needs its rows in memory."""
    from nearfold._utils.arrays import resolve_components

    layout = source.layout
    n_components = resolve_components(estimator.n_components, layout.n_features)
    return estimator.scan_spec(layout.rows, n_components) is not None


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
