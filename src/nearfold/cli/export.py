"""`nearfold export`: a fold in the file of another tool."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

__all__ = ["export"]


class Target(StrEnum):
    """What the file is for."""

    onnx = "onnx"
    faiss = "faiss"
    sentence_transformers = "sentence-transformers"
    model2vec = "model2vec"
    json = "json"
    npy = "npy"
    sql = "sql"


_BY_SUFFIX = {
    ".onnx": Target.onnx,
    ".faiss": Target.faiss,
    ".index": Target.faiss,
    ".json": Target.json,
    ".npy": Target.npy,
    ".sql": Target.sql,
}


def export(
    encoder: opt.EncoderFile,
    out: Annotated[
        Path, typer.Argument(help="File to write, or folder of a model.", metavar="OUT"), Mark.writes
    ],
    to: Annotated[
        Target | None, typer.Option(help="Format to write; told by the ending of OUT unless given.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Saved model to add the fold to (sentence-transformers, model2vec)."),
        Mark.reads,
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(help="Index that holds the folded vectors, as faiss names it (faiss): Flat, HNSW32."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the function (sql).")] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Write weights and results as float16 (onnx).")
    ] = False,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Scale folded vectors to norm 1; done for cosine unless given, and in SQL never.",
        ),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write a fold for another tool, which then needs no nearfold.

    ONNX models, faiss indexes that plain faiss reads, sentence-transformers and model2vec models with the
    fold as their last layer, a function for PostgreSQL with pgvector, or plain numbers as JSON and .npy.
    """
    from nearfold.cli.console import output, print_json
    from nearfold.errors import ParameterError
    from nearfold.folds.loading import load_fold

    if to is None:
        to = _BY_SUFFIX.get(out.suffix.lower())
    if to is None:
        raise ParameterError(
            f"{out}: its ending doesn't tell what for; use --to with one of {', '.join(Target)}"
        )
    taken = {
        "--model": (model, (Target.sentence_transformers, Target.model2vec)),
        "--index": (index, (Target.faiss,)),
        "--name": (name, (Target.sql,)),
        "--half": (half or None, (Target.onnx,)),
        "--normalize": (normalize, (Target.onnx, Target.faiss, Target.sentence_transformers, Target.sql)),
    }
    for option, (value, targets) in taken.items():
        if value is not None and to not in targets:
            raise ParameterError(f"{option} goes with {' and '.join(targets)}, not with {to}")
    fold = load_fold(encoder)
    if to is Target.onnx:
        from nearfold.integrations.onnx import write_onnx

        write_onnx(fold, out, normalize=normalize, half=half)
    elif to is Target.faiss:
        from nearfold.integrations.faiss import write_faiss

        write_faiss(fold, out, index or "Flat", normalize=normalize)
    elif to is Target.sql:
        from nearfold.integrations.sql import write_sql

        write_sql(fold, out, name or "fold", normalize=normalize)
    elif to is Target.json:
        from nearfold.integrations.plain import write_json

        write_json(fold, out)
    elif to is Target.npy:
        from nearfold.integrations.plain import write_npy

        write_npy(fold, out)
    else:
        from nearfold.integrations.models import write_model2vec, write_sentence_transformer

        if model is None:
            raise ParameterError(f"{to} needs --model: the folder of the saved model to add the fold to")
        if to is Target.model2vec:
            write_model2vec(fold, model, out)
        else:
            write_sentence_transformer(fold, model, out, normalize=normalize)
    if as_json:
        print_json({"encoder": str(encoder), "to": to.value, "out": str(out)})
    else:
        output().print(f"saved: {out} ({to}, {fold.n_features} -> {fold.n_components})")
