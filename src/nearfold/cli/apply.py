"""`nearfold apply`: fold vectors with a saved encoder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["apply"]


class OutputDtype(StrEnum):
    """What folded numbers are stored as."""

    float32 = "float32"
    float16 = "float16"
    float64 = "float64"


def apply(
    encoder: Annotated[
        Path,
        typer.Argument(help="An encoder that `fit` saved, or a codec of `plan`.", metavar="ENCODER"),
        Mark.reads,
    ],
    vectors: Annotated[
        str,
        typer.Argument(help="Vectors: a file, a folder of files, or a URL.", metavar="VECTORS"),
        Mark.reads,
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="File, or folder of shards, to write the folded vectors to."),
        Mark.writes,
    ],
    column: opt.Column = None,
    dtype: Annotated[
        OutputDtype, typer.Option(help="Type of the folded vectors; the codes of a codec are bytes always.")
    ] = OutputDtype.float32,
    shard_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="Format of the shards, such as parquet; that of the input unless given."
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Set shards aside that can't be read, and count them, instead of stopping."
        ),
    ] = False,
    memory: opt.Memory = opt.DEFAULT_MEMORY,
    scheduler: opt.Scheduler = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fold vectors with a saved encoder, or encode them with a codec, in bounded memory.

    Order and other columns are kept.

    Into a folder, the work is done shard by shard, with a manifest of checksums: a run that was
    killed is resumed by running it again, and new files in the input folder are folded by running it
    again too.
    """
    import numpy as np

    from nearfold.bulk.apply import apply as applied
    from nearfold.cli.console import print_json, print_mapping, showing_progress
    from nearfold.codecs.codec import Codec, load_any
    from nearfold.errors import ParameterError
    from nearfold.io.vectors import open_source

    loaded = load_any(encoder)
    target = "uint8" if isinstance(loaded, Codec) else dtype.value
    into_folder = out.is_dir() or out.suffix == ""
    if not into_folder and (shard_format or skip_bad or scheduler):
        raise ParameterError(
            f"--format, --skip-bad and --scheduler are for output to a folder of shards; {out} is a file"
        )
    results: dict[str, Any] = {"out": str(out)}
    with showing_progress(quiet or as_json), opt.configured(memory, scheduler):
        source = open_source(vectors, column, on_bad=(lambda *_: None) if skip_bad else None)
        written = applied(loaded, source, out, dtype=target, format=shard_format, skip_bad=skip_bad)
    results["rows"] = written.rows
    if into_folder:
        results |= {"files": written.files, "new_files": written.new_files}
    if skip_bad:
        results["set_aside"] = [entry.as_dict() for entry in written.set_aside]
    bytes_before = source.layout.n_features * source.layout.dtype.itemsize
    bytes_after = loaded.n_components * np.dtype(target).itemsize
    results |= {
        "dimensions": [source.layout.n_features, loaded.n_components],
        "bytes_per_vector": [bytes_before, bytes_after],
    }
    if as_json:
        print_json(results)
        return
    for name in ("dimensions", "bytes_per_vector"):
        results[name] = " -> ".join(map(str, results[name]))
    if skip_bad:
        results["set_aside"] = [e["error"] for e in results["set_aside"]] or "none"
    print_mapping(results)
