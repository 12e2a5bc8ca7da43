"""`nearfold export`: a fold or a codec in the file of another tool."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

if TYPE_CHECKING:
    from nearfold.codecs.codec import Codec
    from nearfold.folds.fold import Fold

__all__ = ["export"]


class Target(StrEnum):
    """What the file is for."""

    onnx = "onnx"
    faiss = "faiss"
    sentence_transformers = "sentence-transformers"
    model2vec = "model2vec"
    json = "json"
    npy = "npy"
    npz = "npz"
    sql = "sql"


_BY_SUFFIX = {
    ".onnx": Target.onnx,
    ".faiss": Target.faiss,
    ".index": Target.faiss,
    ".json": Target.json,
    ".npy": Target.npy,
    ".npz": Target.npz,
    ".sql": Target.sql,
}


# What a fold can be written as, and a codec.
_OF_CODECS = (Target.onnx, Target.faiss, Target.json, Target.npz)
_OF_FOLDS = tuple(target for target in Target if target is not Target.npz)


def export(
    encoder: Annotated[
        Path,
        typer.Argument(help="An encoder that `fit` saved, or a codec of `plan`.", metavar="ENCODER"),
        Mark.reads,
    ],
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
        typer.Option(
            help="Index that holds the folded vectors, as faiss names it (faiss): Flat, HNSW32; codes go "
            "into these two alone."
        ),
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
    base: Annotated[
        str | None,
        typer.Option(help="Vectors to encode into the index: a file, a folder or a URL (codecs to faiss)."),
        Mark.reads,
    ] = None,
    column: opt.Column = None,
    codes: Annotated[
        str | None,
        typer.Option(help="Codes that `apply` made, to put into the index instead (codecs to faiss)."),
        Mark.reads,
    ] = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write a fold or a codec for another tool, which then needs no nearfold.

    Folds: ONNX models, faiss indexes that plain faiss reads, sentence-transformers and model2vec models with
    the fold as their last layer, a function for PostgreSQL with pgvector, or plain numbers as JSON and .npy.

    Codecs: ONNX models that encode, faiss indexes that hold the codes of --base and take queries as they
    are, or the arrays that decode codes as JSON and .npz.
    """
    from nearfold.cli.console import output, print_json, showing_progress
    from nearfold.codecs.codec import Codec, load_any
    from nearfold.errors import ParameterError

    if to is None:
        to = _BY_SUFFIX.get(out.suffix.lower())
    if to is None:
        raise ParameterError(
            f"{out}: its ending doesn't tell what for; use --to with one of {', '.join(Target)}"
        )
    if column is not None and base is None:
        raise ParameterError("--column is that of --base; give --base")
    taken = {
        "--model": (model, (Target.sentence_transformers, Target.model2vec)),
        "--index": (index, (Target.faiss,)),
        "--name": (name, (Target.sql,)),
        "--half": (half or None, (Target.onnx,)),
        "--normalize": (normalize, (Target.onnx, Target.faiss, Target.sentence_transformers, Target.sql)),
        "--base": (base, (Target.faiss,)),
        "--codes": (codes, (Target.faiss,)),
    }
    for option, (value, targets) in taken.items():
        if value is not None and to not in targets:
            raise ParameterError(f"{option} goes with {' and '.join(targets)}, not with {to}")
    loaded = load_any(encoder)
    of_codecs = isinstance(loaded, Codec)
    for option, (value, _) in taken.items():
        for_codecs = option in ("--base", "--codes")
        if value is not None and option != "--index" and for_codecs is not of_codecs:
            raise ParameterError(f"{option} is for {'codecs' if for_codecs else 'folds'}; {encoder} is none")
    possible = _OF_CODECS if of_codecs else _OF_FOLDS
    if to not in possible:
        raise ParameterError(
            f"{encoder} is a {'codec' if of_codecs else 'fold'}, which can't be written as {to}; "
            f"use --to with one of {', '.join(possible)}"
        )
    said: dict[str, Any] = {"encoder": str(encoder), "to": to.value, "out": str(out)}
    if isinstance(loaded, Codec):
        with showing_progress(quiet or as_json):
            said |= _export_codec(loaded, to, out, index, base, column, codes)
    else:
        _export_fold(loaded, to, out, model, index, name, normalize, half=half)
    if as_json:
        print_json(said)
        return
    parts = [f"{to}, {loaded.n_features} -> {loaded.n_components}{' bytes' if of_codecs else ''}"]
    if "vectors" in said:
        parts.append(f"{said['vectors']:,} vectors")
    if said.get("takes_vectors") is False:
        parts.append("for searching: takes codes, not vectors")
    output().print(f"saved: {out} ({', '.join(parts)})")


def _export_codec(
    codec: Codec,
    to: Target,
    out: Path,
    index: str | None,
    base: str | None,
    column: str | None,
    codes: str | None,
) -> dict[str, Any]:
    """Write a codec, and return what is to be said of the file beside its name."""
    if to is Target.faiss:
        from nearfold.integrations.codec_faiss import takes_vectors, write_codec_faiss
        from nearfold.io.vectors import open_source

        source = None if base is None else open_source(base, column)
        written = write_codec_faiss(codec, out, index or "Flat", base=source, codes=codes)
        return {"vectors": int(written.ntotal), "takes_vectors": takes_vectors(codec)}
    if to is Target.onnx:
        from nearfold.integrations.codec_onnx import write_codec_onnx

        write_codec_onnx(codec, out)
    elif to is Target.json:
        from nearfold.integrations.codec_arrays import write_codec_json

        write_codec_json(codec, out)
    else:
        from nearfold.integrations.codec_arrays import write_codec_npz

        write_codec_npz(codec, out)
    return {}


def _export_fold(
    fold: Fold,
    to: Target,
    out: Path,
    model: Path | None,
    index: str | None,
    name: str | None,
    normalize: bool | None,
    *,
    half: bool,
) -> None:
    """Write a fold."""
    from nearfold.errors import ParameterError

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
