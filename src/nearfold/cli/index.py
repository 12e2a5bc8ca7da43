"""`nearfold index`: encode vectors and make them searchable."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["index"]


class Kind(StrEnum):
    """How codes are searched."""

    flat = "flat"
    ivf = "ivf"
    hnsw = "hnsw"


def index(
    codec: Annotated[Path, typer.Argument(help="A codec that `plan` saved.", metavar="CODEC"), Mark.reads],
    base: Annotated[
        str,
        typer.Argument(
            help="The vectors: a file, a folder or a URL. Local .npy, .fvecs, .bvecs, HDF5 and Lance files "
            "stay where they are and are read for re-ranking; others' vectors are copied into the index.",
            metavar="BASE",
        ),
        Mark.reads,
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the index to."), Mark.writes],
    kind: Annotated[
        Kind,
        typer.Option(
            help="Way to search: look at every code (flat), at lists of them (ivf), or follow a graph (hnsw)."
        ),
    ] = Kind.flat,
    M: Annotated[
        int, typer.Option("--M", help="Number of links of each vertex of the graph (kind hnsw).", min=2)
    ] = 16,
    ef_construction: Annotated[
        int, typer.Option(help="Number of candidates kept while a vertex is linked (kind hnsw).", min=1)
    ] = 100,
    certify: Annotated[
        bool,
        typer.Option(help="Keep 12 more bytes a vector, with which `search --certified` proves results."),
    ] = False,
    column: opt.Column = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Encode vectors and make an index of the codes, to be searched by `nearfold search`."""
    from nearfold.cli.console import print_json, print_mapping, showing_progress
    from nearfold.codecs.codec import Codec
    from nearfold.io.vectors import open_source
    from nearfold.search.index import SearchIndex

    with showing_progress(quiet or as_json):
        built = SearchIndex.build(
            Codec.load(codec),
            open_source(base, column),
            kind=kind.value,
            certify=certify,
            M=M,
            ef_construction=ef_construction,
        )
        built.save(out)
    size = sum(path.stat().st_size for path in out.iterdir())
    results = {
        "index": str(out),
        "codec": built.codec.spec,
        "kind": built.kind,
        "vectors": len(built),
        "bytes_per_vector": built.codec.bytes_per_vector,
        "bytes_on_disk": size,
    }
    if as_json:
        print_json(results)
    else:
        print_mapping(results)
