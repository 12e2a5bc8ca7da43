"""`nearfold drift`: whether new vectors are still of the kind that an encoder was fitted to."""

from __future__ import annotations

from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["drift"]

_DRIFTED = 1


def drift(
    encoder: opt.EncoderFile,
    vectors: Annotated[
        str, typer.Argument(help="New vectors: a file, a folder or a URL.", metavar="VECTORS"), Mark.reads
    ],
    max_drop: Annotated[
        float, typer.Option(help="Most that recall@10 or the energy kept may have fallen by.", min=0)
    ] = 0.05,
    max_loss_rise: Annotated[
        float, typer.Option(help="Share of itself that the block loss may have risen by.", min=0)
    ] = 0.25,
    column: opt.Column = None,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compare new vectors with those an encoder was fitted to; exit with 1 if they have drifted.

    A sample of both, of one size, is folded: recall@10, the energy that the fold keeps, and the loss of
    blocks are compared. Exit status: 0 as before, 1 drifted, 2 bad input.
    """
    from nearfold.cli.console import output, print_json, short, showing_progress
    from nearfold.evaluation.drift import drift as run
    from nearfold.folds.loading import load_fold
    from nearfold.io.vectors import open_source

    loaded = load_fold(encoder)
    with showing_progress(quiet or as_json):
        found = run(loaded, open_source(vectors, column), seed=seed)
    exceeded = found.exceeds(max_drop, max_loss_rise)
    if as_json:
        print_json(
            {
                "drifted": bool(exceeded),
                "exceeded": exceeded,
                "baseline": found.baseline._asdict(),
                "current": found.current._asdict(),
                "limits": {"max_drop": max_drop, "max_loss_rise": max_loss_rise},
            }
        )
    else:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in ("", "baseline", "current", "change", "limit", ""):
            table.add_column(name, justify="right" if name else "left")
        changes = {
            "recall": ("recall@10", found.recall_drop, max_drop),
            "energy": ("energy kept", found.energy_drop, max_drop),
            "loss": ("block loss", found.loss_rise, max_loss_rise),
        }
        for name, (label, change, limit) in changes.items():
            then, now = getattr(found.baseline, name), getattr(found.current, name)
            if change is None:
                continue
            shown = [f"{then:.4f}", f"{now:.4f}"] if name == "loss" else [short(then), short(now)]
            rise = f"{change:+.0%}" if name == "loss" else short(-change)
            bound = f"+{limit:.0%}" if name == "loss" else short(-limit)
            table.add_row(label, *shown, rise, bound, "past its limit" if name in exceeded else "")
        output().print(table)
        output().print(
            f"samples of {found.current.rows:,} rows; {'drifted' if exceeded else 'no drift'}", style="dim"
        )
    if exceeded:
        raise typer.Exit(_DRIFTED)
