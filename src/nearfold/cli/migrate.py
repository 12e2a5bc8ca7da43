"""`nearfold migrate`: folded vectors beside the full ones of a database."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["migrate"]


class StoredDtype(StrEnum):
    """How folded vectors are stored."""

    float16 = "float16"
    float32 = "float32"


def migrate(
    encoder: opt.EncoderFile,
    where: Annotated[
        str,
        typer.Argument(
            help="postgresql://USER@HOST/NAME, lancedb:FOLDER, duckdb:FILE, or qdrant:FOLDER with edge "
            "shards in it.",
            metavar="DATABASE",
        ),
        Mark.changes,
    ],
    table: Annotated[str, typer.Option(help="Table (Qdrant: shard) that holds the full vectors.")],
    column: Annotated[
        str | None, typer.Option(help="Column of the full vectors, where there are several such.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--id", help="Column that tells rows apart, if not the primary key (PostgreSQL)."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of what is made: TABLE_folded, COLUMN_folded (LanceDB), TABLE-folded (Qdrant)."
        ),
    ] = None,
    dtype: Annotated[StoredDtype, typer.Option(help="Type of the folded vectors.")] = StoredDtype.float16,
    index: Annotated[bool, typer.Option(help="Build an index over folded vectors.")] = True,
    k: Annotated[int, typer.Option("-k", help="Number of neighbours that a search wants.", min=1)] = 10,
    n_candidates: Annotated[
        int,
        typer.Option(help="Number of candidates of the first stage, which full vectors put in order.", min=1),
    ] = 100,
    recall: Annotated[
        float, typer.Option(help="Share of the true k nearest that must be found.", min=0, max=1)
    ] = 0.95,
    n_queries: Annotated[int, typer.Option(help="Number of rows to verify with.", min=1)] = 200,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Put folded vectors beside the full ones of a database, and verify that they find these.

    A run that was killed resumes if the command is run again. It then also folds vectors that were added or
    changed since, and removes the folds of vectors that are gone. Full vectors are only
    read. The query to use is printed at the end.
    """
    from nearfold.cli.console import (
        interval,
        joined,
        output,
        print_json,
        print_mapping,
        print_text,
        showing_progress,
    )
    from nearfold.folds.loading import load_fold
    from nearfold.integrations.databases.migrating import migrate as run
    from nearfold.integrations.databases.stores import open_store

    fold = load_fold(encoder)
    with (
        showing_progress(quiet or as_json),
        open_store(where, fold, table=table, column=column, key=key, name=name, dtype=dtype.value) as store,
    ):
        done = run(
            fold,
            store,
            k=k,
            n_candidates=n_candidates,
            recall=recall,
            n_queries=n_queries,
            index=index,
            dry_run=dry_run,
            seed=seed,
        )
    results = done.as_dict()
    if as_json:
        print_json({"dry_run": dry_run, **results})
        return
    shown = {each: results[each] for each in ("source", "target")}
    shown["vectors"] = f"{done.survey.rows:,}, {done.survey.folded:,} of them folded before"
    if dry_run:
        shown["would make"] = results["makes"] or "nothing: it is there"
    else:
        shown["folded now"] = f"{done.written:,}"
        if done.refreshed:
            shown["folded anew"] = f"{done.refreshed:,}, whose vectors changed or had no digest"
        if done.removed:
            shown["removed"] = f"{done.removed:,} folds, whose vectors are gone"
    if done.survey.remark:
        shown["note"] = done.survey.remark
    if done.recall is not None:
        shown["recall"] = joined(
            f"{k}-recall@{n_candidates} ", interval(done.recall), f", {done.queries} queries"
        )
    print_mapping(shown)
    output().print("\nTo search:\n" if not dry_run else "\nTo search then:\n")
    print_text(done.recipe)
