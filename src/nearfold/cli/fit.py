"""`nearfold fit`: learn an encoder from a file of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli.options import AsJson, BaseFile, Column, MetricName, Params, Quiet, Seed, parse_parameters

__all__ = ["fit"]


def fit(
    base: BaseFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the encoder goes (.safetensors).")],
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
        Path | None,
        typer.Option(help="A sample of queries, where they differ in kind from BASE (nearfold only)."),
    ] = None,
    column: Column = None,
    param: Params = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn an encoder from vectors and save it."""
    from nearfold.cli.console import print_json, print_mapping, showing_progress
    from nearfold.errors import ParameterError
    from nearfold.io.vectors import read_vectors
    from nearfold.methods.nearfold import NearFold
    from nearfold.methods.registry import METHODS, make
    from nearfold.theory.spectrum import spectrum_of

    estimator = make(
        method, dimensions, **{"random_state": seed, "metric": metric.value, **parse_parameters(param)}
    )
    if queries is not None and not isinstance(estimator, NearFold):
        raise ParameterError(f"--queries is for method nearfold; {method} learns from the base alone")
    if not METHODS[method].saves:
        raise ParameterError(f"a fold by {method} can't be saved; `nearfold compare` judges it")
    with showing_progress(quiet or as_json):
        vectors = read_vectors(base, column)
        if queries is not None and isinstance(estimator, NearFold):
            estimator.fit(vectors, queries=read_vectors(queries, column))
        else:
            estimator.fit(vectors)
    encoder = estimator.encoder_
    encoder.save(out)
    conditioning = spectrum_of(encoder, vectors)
    results = {
        "encoder": str(out),
        "method": encoder.method,
        "metric": encoder.metric,
        "dimensions": [encoder.n_features, encoder.n_components],
        "facts": dict(encoder.facts),
        "kappa": None if conditioning is None else conditioning.kappa,
    }
    if as_json:
        print_json(results)
        return
    results["dimensions"] = f"{encoder.n_features} -> {encoder.n_components}"
    results["facts"] = ", ".join(f"{name} {value}" for name, value in encoder.facts.items())
    print_mapping(results)
