"""Apply a fold or a codec to vectors of any size, into a file or a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.bulk.file import apply_to_file
from nearfold.bulk.folder import Written, apply_to_folder
from nearfold.codecs.codec import Codec
from nearfold.errors import ParameterError
from nearfold.folds.fold import as_fold
from nearfold.io.vectors import FORMATS, as_source, open_source

__all__ = ["apply"]


def apply(
    fold: Any,
    X: Any,
    out: str | os.PathLike[str],
    *,
    column: str | None = None,
    dtype: npt.DTypeLike = np.float32,
    format: str | None = None,  # noqa: A002
    skip_bad: bool = False,
) -> Written:
    """Fold vectors of any number, or encode them with a codec, and write them to a file or a folder.

    Memory is bounded, whatever the input's size. The order of the rows is kept, and so are the other columns
    of Parquet and Arrow files where the output is of these formats. Where the files of a folder have
    different columns, one output file has all of them: null where a file lacks one, of a type that holds
    every file's values.

    Into a folder the work is done shard by shard, here or on the cluster that `config_context` names. A
    manifest keeps a checksum of each file, so a run that was killed is resumed by calling it again, and a
    finished one is left as it is, once every file is found to be what its checksum says.

    If the input folder has got new files since, the same call folds these and leaves the others, after the
    same checks. The rows stay in the order of the inputs' names: where a new name comes before an old one,
    the rows of the old file get higher numbers, in the output as in the input, and a warning says so.

    Parameters
    ----------
    fold : Fold, Codec or estimator
        What is applied, for vectors of d dimensions.
    X : array-like, path, URL or Source
        The vectors, shape (n, d).
    out : path
        A file, whose ending names its format, or a folder: a name that has no ending or is a folder already.
        A file appears whole, or not at all.
    column : str, optional
        The column of vectors, where a file holds several.
    dtype : dtype, default=float32
        The type of folded vectors: float32, float16 or float64. The codes of a codec are uint8 always.
    format : str, optional
        The format of a folder's files, such as "parquet". The default is that of the input, or Parquet where
        that can't be written.
    skip_bad : bool, default=False
        Whether inputs of a folder that can't be read or folded are set aside and counted. By default they are
        an error.

    Returns
    -------
    Written
        How many rows and files the output has.

    Raises
    ------
    DataError
        The vectors are not d wide, or a row is not finite.
    FileError
        A file can't be read or written; `out` is an input, or lies in the input folder or around it; two
        inputs would become one file; types of a column conflict; or the folder is held by another run, or has
        something else in it or a file that has changed; or an input that was folded into it before has
        changed or is gone, or would become a file of another name because of new inputs.
    ParameterError
        `format` or `skip_bad` are given with one file as the output, or its ending is unknown.

    Warns
    -----
    NearfoldWarning
        The output can't hold the input's other columns, or new files come before those that were folded into
        the folder before.
    """
    fold, target = as_fold(fold), Path(out)
    kind = "uint8" if isinstance(fold, Codec) else dtype
    if skip_bad and isinstance(X, str | os.PathLike):
        source = open_source(X, column, on_bad=lambda *_: None)
    else:
        source = as_source(X, column)
    if target.is_dir() or target.suffix == "":
        suffix = None if format is None else f".{format.removeprefix('.').lower()}"
        return apply_to_folder(fold, source, target, suffix=suffix, dtype=kind, skip_bad=skip_bad)
    if format is not None or skip_bad:
        raise ParameterError(f"format and skip_bad are for a folder of files as the output; {out} is a file")
    if target.suffix.lower() not in FORMATS:
        raise ParameterError(f"{out}: can't tell its format from its name; use {', '.join(FORMATS)}")
    return Written(apply_to_file(fold, source, target, kind).rows, 1, 1)
