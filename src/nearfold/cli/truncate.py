"""`nearfold truncate`: keep the first dimensions of a fold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["truncate"]


def truncate(
    encoder: Annotated[
        Path, typer.Argument(help="An encoder that `fit` saved.", metavar="ENCODER"), Mark.reads
    ],
    dimensions: Annotated[
        int, typer.Option("--dimensions", "-d", help="Number of first dimensions to keep.", min=1)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write the encoder to (.safetensors)."), Mark.writes
    ],
    as_json: opt.AsJson = False,
) -> None:
    """Save the fold to the first dimensions of another, such as of one that was fitted with nested=true."""
    from nearfold.cli.fit import print_fit
    from nearfold.folds.encoder import Encoder

    fold = Encoder.load(encoder).truncate(dimensions)
    fold.save(out)
    print_fit(fold, out, as_json=as_json)
