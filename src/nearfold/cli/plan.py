"""`nearfold plan`: how few bytes a user's own vectors can take, and at what loss."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

if TYPE_CHECKING:
    from nearfold.planning.plan import Plan

__all__ = ["plan"]


_ROWS = 100_000


class StorageName(StrEnum):
    """Where the vectors are kept."""

    memory = "memory"
    disk = "disk"
    nowhere = "nowhere"


def plan(
    base: opt.BaseFile,
    n_bytes: Annotated[
        int | None, typer.Option("--bytes", help="Number of bytes that a vector may take in memory.", min=2)
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(help="Share of the true top k to keep, such as .95, in place of --bytes."),
    ] = None,
    ndcg: Annotated[
        float | None,
        typer.Option(help="Share of the full vectors' nDCG@k to keep, such as .98; with --qrels."),
    ] = None,
    n_candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates",
            help="Number of candidates that the vectors put in order; 5 k unless given, 0 for none.",
            min=0,
        ),
    ] = None,
    storage: Annotated[
        StorageName, typer.Option(help="Place where the vectors are kept beside their codes.")
    ] = StorageName.disk,
    metric: Annotated[
        opt.MetricName, typer.Option(help="Metric that the vectors are searched with.")
    ] = opt.MetricName.cosine,
    k: Annotated[int, typer.Option("-k", help="Number of neighbours that count.", min=1)] = 10,
    codecs: Annotated[
        str | None,
        typer.Option(
            help="Codecs to try and no others, with semicolons between: NearFold192,AQ48;PCA48,SQ8."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Number of rows to plan on, drawn at random where there are more; 100,000 unless given, and "
            "all with --qrels.",
            min=4,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="Number of minutes after which no further fit begins.", min=0),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write the codec to (.safetensors)."),
        Mark.writes,
    ] = None,
    queries: opt.Queries = None,
    n_queries: opt.NQueries = None,
    fit_queries: Annotated[
        str | None,
        typer.Option(help="File with other queries to learn from, where they differ in kind from BASE."),
        Mark.reads,
    ] = None,
    qrels: opt.Qrels = None,
    ids: opt.Ids = None,
    query_ids: opt.QueryIds = None,
    report: opt.Report = None,
    column: opt.Column = None,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Find the fold and quantiser that keep most in so many bytes, or the fewest bytes that keep enough.

    Many codecs are tried on few rows and the best of them on more, "do not fold" among them, each measured
    on queries that it hasn't seen. With --qrels, what the queries find of what they look for is measured
    too. The best is saved for `apply`, `index` and `search`.
    """
    from nearfold.cli.console import print_json, showing_progress
    from nearfold.cli.inputs import read_base_and_queries, read_labels, read_queries
    from nearfold.errors import ParameterError
    from nearfold.planning.plan import plan as run

    if sum(each is not None for each in (n_bytes, recall, ndcg)) != 1:
        raise ParameterError(
            "give one of --bytes, --recall and --ndcg: how small vectors must be, or how much to keep"
        )
    if ndcg is not None and qrels is None:
        raise ParameterError("--ndcg needs --qrels: which documents answer which queries")
    labels = read_labels(qrels, base, queries, column, ids=ids, query_ids=query_ids)
    with showing_progress(quiet or as_json):
        vectors, validation = read_base_and_queries(
            base,
            queries,
            column,
            metric == "cosine",
            n_queries=n_queries,
            rows=_ROWS if rows is None and labels is None else rows,
            seed=seed,
            whole=labels is not None,
        )
        result = run(
            vectors,
            n_bytes=n_bytes,
            recall=recall,
            ndcg=ndcg,
            metric=metric.value,
            k=k,
            n_candidates=n_candidates,
            storage=storage.value,
            queries=validation,
            codecs=None if codecs is None else codecs.split(";"),
            seconds=None if minutes is None else 60 * minutes,
            seed=seed,
            qrels=labels,
            fit_queries=None if fit_queries is None else read_queries(fit_queries, column),
        )
    if out is not None:
        result.codec.save(out)
    if report is not None:
        from nearfold.report.plan import plan_page
        from nearfold.report.provenance import command_line, provenance

        title = f"How few bytes {Path(base).name} needs"
        plan_page(result, title, provenance(vectors, validation), command_line()).write(report)
    if as_json:
        saved = None if out is None else str(out)
        print_json({"base": str(base), "rows": len(vectors), **result.as_dict(), "out": saved})
        return
    _print_plan(result, out)


def _print_plan(result: Plan, out: Path | None) -> None:
    from rich.table import Table

    from nearfold.cli.console import interval, joined, output, short
    from nearfold.cli.tables import LABELS

    console = output()
    front = set(map(id, result.front()))
    table = Table(box=None, pad_edge=False)
    table.add_column("codec", no_wrap=True)
    labels, measures = result.chosen.evaluation.labels, result.measures
    for heading in ("bytes", "shared", *measures.values(), "rows", "fit s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    order = sorted(result.trials, key=lambda t: (-t.rung, -t.quality(result.column)))
    for trial in order:
        said = "recommended" if trial is result.chosen else "on the front" if id(trial) in front else ""
        table.add_row(
            str(trial.spec),
            str(trial.codec.bytes_per_vector),
            f"{trial.codec.shared_bytes / 1e6:.1f} MB",
            *(interval(trial.evaluation.kept(name)) for name in measures),
            f"{trial.rows:,}",
            f"{trial.fit_seconds:.1f}",
            said,
            style="bold" if trial is result.chosen else "",
        )
    console.print(table)
    for spec, reason in result.failed:
        console.print(f"{spec}: not tried: {reason}", style="dim")
    chosen, error = result.chosen, result.cost_of_error()
    before = 4 * result.n_features
    console.print()
    console.print(
        joined(
            (str(chosen.spec), "bold"),
            f": {before} -> {chosen.codec.bytes_per_vector} bytes a vector, {measures[result.column]} ",
            interval(result.kept(chosen)),
        )
    )
    if result.reached is False:
        console.print("No codec reaches that share for certain; this one keeps most.")
    if error is not None:
        assert result.runner_up is not None
        assert result.against is not None
        fewer = result.against.rows < chosen.rows
        on = f", on {result.against.rows:,} rows" if fewer else ""
        console.print(
            joined(
                f"If {result.runner_up.spec} is the better one after all, at most "
                f"{short(max(0.0, error.high))} of {result.column} is lost (its difference{on}: ",
                interval(error),
                ").",
            )
        )
    if result.n_candidates:
        console.print(
            f"Each query reads {result.n_candidates} vectors from {result.storage}: "
            f"{result.n_candidates * before / 1000:,.0f} kB as float32."
        )
    console.print(
        f"{result.n_queries:,} validation queries, exact search over codes, 95% intervals. Rows: how many a "
        f"codec was tried on; only figures of the same number can be compared. Shared: stored once.",
        style="dim",
    )
    if labels is not None:
        console.print(LABELS.format(judged=labels.n_judged, queries=result.n_queries), style="dim")
    if out is not None:
        console.print(f"saved: {out}")
