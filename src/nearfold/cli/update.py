"""`nearfold update`: add new rows to what an encoder was fitted to, and refit where that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["update"]


def update(
    encoder: opt.EncoderFile,
    vectors: Annotated[
        str, typer.Argument(help="The new rows alone: a file, a folder or a URL.", metavar="NEW"), Mark.reads
    ],
    checkpoint: Annotated[
        Path,
        typer.Option(help="File that `fit --checkpoint` wrote; the scan of the new rows is added to it."),
        Mark.changes,
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="File to write the encoder to, refitted or as it was."),
        Mark.writes,
    ],
    min_gain: Annotated[
        float,
        typer.Option(help="Share of itself by which held-out loss must fall for a refit.", min=0, max=1),
    ] = 0.05,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    column: opt.Column = None,
    memory: opt.Memory = opt.DEFAULT_MEMORY,
    scheduler: opt.Scheduler = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Add new rows to an encoder's training without reading the old ones; refit only where it helps."""
    from nearfold._utils.files import held_file
    from nearfold.bulk.update import update as updated
    from nearfold.cli.console import print_json, print_mapping, showing_progress
    from nearfold.folds.encoder import Encoder
    from nearfold.io.vectors import open_source
    from nearfold.scan.checkpoint import ScanCheckpoint

    # From reading to writing, so that rows which another run adds meanwhile are not lost.
    with held_file(checkpoint), showing_progress(quiet or as_json), opt.configured(memory, scheduler):
        loaded, known = Encoder.load(encoder), ScanCheckpoint.load(checkpoint)
        found = updated(loaded, known, open_source(vectors, column), min_gain=min_gain)
        if not dry_run:
            # The encoder first: a kill between the two leaves the rows uncounted, to be added again.
            found.fold.save(out)
            found.checkpoint.save(checkpoint)
    results = {
        "encoder": str(out),
        "refitted": found.refitted,
        "rows": [known.rows, found.checkpoint.rows],
        "held_out_loss": [found.loss_before, found.loss_after],
        "written": not dry_run,
    }
    if as_json:
        print_json(results)
        return
    results["rows"] = f"{known.rows} -> {found.checkpoint.rows}"
    results["held_out_loss"] = f"{found.loss_before:.5f} as it is, {found.loss_after:.5f} refitted"
    print_mapping(results)
