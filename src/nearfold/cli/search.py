"""`nearfold search`: the nearest vectors of queries, by codes first and full vectors second."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli.options import AsJson, Column, Quiet
from nearfold.cli.paths import Mark

__all__ = ["search"]


def search(
    index: Annotated[
        Path,
        typer.Argument(help="A folder that `index` made, or a codec with --base.", metavar="INDEX"),
        Mark.reads,
    ],
    queries: Annotated[str, typer.Argument(help="Vectors to ask with.", metavar="QUERIES"), Mark.reads],
    k: Annotated[int, typer.Option("-k", help="Neighbours of each query.", min=1)] = 10,
    rerank: Annotated[
        int | None,
        typer.Option(help="Candidates that full vectors put in order: 5 k unless given, 0 for none.", min=0),
    ] = None,
    effort: Annotated[
        int | None, typer.Option(help="Lists to look into (ivf), candidates kept on the way (hnsw).", min=1)
    ] = None,
    certified: Annotated[
        bool, typer.Option("--certified", help="Read on until the nearest are proven.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(help="Vectors to search in, where INDEX is a codec; or where an index's own are now."),
        Mark.reads,
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where results go (.parquet): query, rank, id, score."),
        Mark.writes,
    ] = None,
    column: Column = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find each query's nearest vectors.

    Results go to a Parquet file, or as JSON or a table to standard output. Scores are exact: cosine,
    minus the squared distance (l2), or the inner product.
    """
    from nearfold.cli.console import print_json, print_mapping, showing_progress
    from nearfold.cli.inputs import read_queries
    from nearfold.codecs.codec import Codec
    from nearfold.errors import ParameterError
    from nearfold.search.index import SearchIndex
    from nearfold.search.table import write_found

    if base is None and index.is_file():
        raise ParameterError(f"{index}: is a file; with a codec, name the vectors to search in by --base")
    if out is not None and out.suffix.lower() != ".parquet":
        raise ParameterError(f"{out}: results are written as Parquet; name a .parquet file")
    with showing_progress(quiet or as_json):
        if base is None or index.is_dir():
            opened = SearchIndex.load(index, base=base)
        else:
            opened = SearchIndex.build(Codec.load(index), base, certify=certified)
        asked = read_queries(queries, column, directions=opened.codec.metric == "cosine")
        found = opened.search(asked, k, depth=rerank, effort=effort, certified=certified)
    if out is not None:
        write_found(found, out)
    read = {"mean": float(found.read.mean()), "most": int(found.read.max())}
    results = {"queries": len(asked), "k": k, "read": read, "out": None if out is None else str(out)}
    if as_json:
        lists = {"ids": found.ids.tolist(), "scores": found.scores.tolist()} if out is None else {}
        print_json({**results, **lists})
        return
    if out is None:
        from rich.table import Table

        from nearfold.cli.console import output

        table = Table("query", "ids, nearest first", box=None, pad_edge=False)
        for number, ids in enumerate(found.ids):
            table.add_row(str(number), " ".join(str(i) for i in ids if i >= 0))
        output().print(table)
        return
    results["read"] = f"{read['mean']:.1f} full vectors a query, {read['most']} at most"
    print_mapping(results)
