"""`nearfold verify`: whether what nearfold wrote is still what it wrote, by every byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["verify"]


def verify(
    path: Annotated[
        Path,
        typer.Argument(help="An index, a folded folder, a fold, a codec or a scan.", metavar="PATH"),
        Mark.reads,
    ],
    base: Annotated[
        str | None,
        typer.Option(help="File of full vectors of an index, if it was moved."),
        Mark.reads,
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Read every byte of what nearfold wrote, and say whether it is whole; exit with 2 if it is not."""
    from nearfold.cli.console import print_json, print_mapping
    from nearfold.verification import verify as verified

    results = {"path": str(path), **verified(path, base=base)}
    if as_json:
        print_json(results)
    else:
        print_mapping(results)
