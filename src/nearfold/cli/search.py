"""`nearfold search`: find the nearest vectors of queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["search"]


def search(
    index: Annotated[
        Path,
        typer.Argument(help="A folder that `index` made, or a codec with --base.", metavar="INDEX"),
        Mark.reads,
    ],
    queries: Annotated[
        str, typer.Argument(help="The queries: a file, a folder or a URL.", metavar="QUERIES"), Mark.reads
    ],
    k: Annotated[int, typer.Option("-k", help="Number of neighbours to find for each query.", min=1)] = 10,
    n_candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates",
            help="Number of candidates that the vectors put in order; 5 k unless given, 0 for codes alone.",
            min=0,
        ),
    ] = None,
    nprobe: Annotated[
        int | None, typer.Option(help="Number of lists to look into (kind ivf).", min=1)
    ] = None,
    ef_search: Annotated[
        int | None,
        typer.Option(help="Number of candidates kept while following the graph (kind hnsw).", min=1),
    ] = None,
    certified: Annotated[
        bool, typer.Option("--certified", help="Read vectors until the nearest are proven.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(help="Vectors to search in, where INDEX is a codec; or where an index's own are now."),
        Mark.reads,
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="The only vectors to find: a .parquet file of ids, or a condition on the base's other "
            'columns, such as \'price < 10 and language in ("en", "de")\'.'
        ),
        Mark.reads,
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Parquet or Arrow file or folder with the columns that --where names; --base unless given."
        ),
        Mark.reads,
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            help="Column of ids in the file of --where, by default its only one or `id`; or in that of "
            "--columns, by default row numbers."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write the results to (.parquet): query, rank, id, score."),
        Mark.writes,
    ] = None,
    column: opt.Column = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Find each query's nearest vectors.

    Results go to a Parquet file, or as JSON or a table to standard output. Scores are exact: cosine,
    minus the squared distance (l2), or the inner product.
    """
    from nearfold.cli.console import print_json, print_mapping, showing_progress
    from nearfold.cli.inputs import read_filter, read_queries
    from nearfold.codecs.codec import Codec
    from nearfold.errors import ParameterError
    from nearfold.search.index import SearchIndex
    from nearfold.search.table import write_results

    if base is None and index.is_file():
        raise ParameterError(f"{index}: is a file; with a codec, name the vectors to search in by --base")
    if out is not None and out.suffix.lower() != ".parquet":
        raise ParameterError(f"{out}: results are written as Parquet; name a .parquet file")
    allowed = read_filter(where, columns, ids, base)
    with showing_progress(quiet or as_json):
        if base is None or index.is_dir():
            opened = SearchIndex.load(index, base=base)
        else:
            opened = SearchIndex.build(Codec.load(index), base, certify=certified)
        asked = read_queries(queries, column, directions=opened.codec.metric == "cosine")
        result = opened.search(
            asked,
            k,
            n_candidates=n_candidates,
            nprobe=nprobe,
            ef_search=ef_search,
            certified=certified,
            where=allowed,
        )
    if out is not None:
        write_results(result, out)
    read = {"mean": float(result.n_read.mean()), "max": int(result.n_read.max())}
    results = {"queries": len(asked), "k": k, "n_read": read, "out": None if out is None else str(out)}
    if as_json:
        lists = {"ids": result.ids.tolist(), "scores": result.scores.tolist()} if out is None else {}
        print_json({**results, **lists})
        return
    if out is None:
        from rich.table import Table

        from nearfold.cli.console import output

        table = Table("query", "ids, nearest first", box=None, pad_edge=False)
        for number, nearest in enumerate(result.ids):
            table.add_row(str(number), " ".join(str(i) for i in nearest if i >= 0))
        output().print(table)
        return
    results["n_read"] = f"{read['mean']:.1f} vectors a query, {read['max']} at most"
    print_mapping(results)
