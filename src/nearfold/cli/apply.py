"""`nearfold apply`: fold a file of vectors with a saved encoder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli.options import AsJson, Column, Quiet

__all__ = ["apply"]


class OutputDtype(StrEnum):
    """Numbers that folded vectors are stored as."""

    float32 = "float32"
    float16 = "float16"
    float64 = "float64"


def apply(
    encoder: Annotated[Path, typer.Argument(help="An encoder that `fit` saved.", metavar="ENCODER")],
    vectors: Annotated[Path, typer.Argument(help="Vectors: .npy, .npz or .parquet.", metavar="VECTORS")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where folded vectors go: .npy, .npz or .parquet.")
    ],
    column: Column = None,
    dtype: Annotated[OutputDtype, typer.Option(help="Of the folded vectors.")] = OutputDtype.float32,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fold vectors with a saved encoder, a chunk at a time; other Parquet columns ride along."""
    from nearfold.cli.console import print_json, print_mapping, showing_progress
    from nearfold.io.vectors import open_source
    from nearfold.loading import load
    from nearfold.scale.transform import fold_file

    loaded = load(encoder)
    with showing_progress(quiet or as_json):
        source = open_source(vectors, column)
        layout = fold_file(loaded, source, out, dtype.value)
    bytes_before = source.layout.n_features * source.layout.dtype.itemsize
    results = {
        "out": str(out),
        "rows": layout.rows,
        "dimensions": [source.layout.n_features, layout.n_features],
        "bytes_per_vector": [bytes_before, layout.n_features * layout.dtype.itemsize],
    }
    if as_json:
        print_json(results)
        return
    print_mapping({k: " -> ".join(map(str, v)) if isinstance(v, list) else v for k, v in results.items()})
