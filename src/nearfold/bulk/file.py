"""Fold vectors into one file, a chunk at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import check_finite, check_width
from nearfold._utils.files import keeping
from nearfold._utils.progress import stage
from nearfold._utils.threads import blas_threads, in_order
from nearfold._utils.warned import warn
from nearfold.codecs.codec import Applied
from nearfold.errors import DataError, FileError
from nearfold.io.base import Chunk, Layout, Source
from nearfold.io.columns import check_columns, columns_as, without_dictionaries
from nearfold.io.ipc import SUFFIXES as IPC
from nearfold.io.location import Location
from nearfold.io.vectors import checked_chunks, located_chunks, open_sink

__all__ = ["apply_to_file", "check_output", "folded_chunks", "folded_layout", "keeps_columns"]


def keeps_columns(suffix: str) -> bool:
    """Return whether files of a format can hold columns beside the vectors.

    Parameters
    ----------
    suffix : str
        The ending of the file, such as ".parquet".

    Returns
    -------
    bool
    """
    return suffix in (".parquet", *IPC)


def folded_layout(encoder: Applied, source: Source, rows: int, suffix: str, dtype: npt.DTypeLike) -> Layout:
    """Return the layout of a file of folded vectors.

    Parameters
    ----------
    encoder : Applied
        The fold or codec.
    source : Source
        The vectors.
    rows : int
        The number of rows of the file.
    suffix : str
        The ending of the file, which says whether it can hold other columns.
    dtype : dtype-like
        The dtype of the folded vectors.

    Returns
    -------
    Layout
    """
    have = source.layout
    others = have.others if keeps_columns(suffix) else None
    if others is not None and suffix in IPC and Location.of(source.path).suffix not in IPC:
        # An Arrow file has one dictionary a column, where other files have one every so many rows.
        others = without_dictionaries(others)
    origin = {"fold": repr(encoder)}
    return Layout(rows, encoder.n_components, np.dtype(dtype), have.name, others, origin)


def check_output(encoder: Applied, source: Source, out: str, suffix: str) -> None:
    """Refuse vectors that the encoder does not take, and an output that is the input; warn of lost columns.

    Parameters
    ----------
    encoder : Applied
        The fold or codec.
    source : Source
        The vectors.
    out : str
        The output file or folder.
    suffix : str
        The ending of the files that are written.

    Raises
    ------
    DataError
        The vectors are not as wide as the encoder takes them.
    FileError
        The output is the input itself.

    Warns
    -----
    NearfoldWarning
        The source has other columns, which the format of the output can't hold.
    """
    have = source.layout
    check_width(source.path, have.n_features, encoder.n_features)
    if not source.in_memory and Location.of(source.path).holds(out):
        raise FileError(f"{out}: is the input itself; name another output")
    if have.others is not None and not keeps_columns(suffix):
        warn(
            f"{out}: only Parquet and Arrow keep the columns {', '.join(have.others.names)}; "
            f"they are left out"
        )


def folded_chunks(
    encoder: Applied, source: Source, start: int, stop: int | None, *, columns: Any, dtype: npt.DTypeLike
) -> Iterator[Chunk]:
    """Yield the chunks of a source after folding.

    Parameters
    ----------
    encoder : Applied
        The fold or codec.
    source : Source
        The vectors.
    start : int
        The first row.
    stop : int or None
        One past the last row; None stands for the end of the source.
    columns : pyarrow.Schema or None
        The schema that the other columns get. None leaves them out.
    dtype : dtype-like
        The dtype of the folded vectors.

    Raises
    ------
    DataError
        A row is not finite, or can't be folded; the message names the file and the row.
    FileError
        The source can't be read.
    """
    first = start
    for chunk in checked_chunks(source, start, stop, others=columns is not None, finite=False):
        yield _fold_located((chunk, source.path, first), encoder, dtype, columns)
        first += len(chunk.vectors)


def _fold_located(
    located: tuple[Chunk, str, int], encoder: Applied, dtype: npt.DTypeLike, columns: Any
) -> Chunk:
    chunk, path, first_row = located
    try:
        folded = encoder.transform(chunk.vectors, dtype=dtype)
    except DataError:
        check_finite(chunk.vectors, path, first_row)
        raise
    others = None if columns is None else columns_as(chunk.others, len(folded), columns, path)
    return Chunk(folded, others)


def _local_paths(source: Source) -> list[Path]:
    """Return what of a source lies on this machine: it and its files, which may be links out of it."""
    if source.in_memory:
        return []
    places = [Location.of(path).local for path in {source.path, *(part.path for part in source.parts)}]
    return [place for place in places if place is not None]


def apply_to_file(encoder: Applied, source: Source, out: Path, dtype: npt.DTypeLike) -> Layout:
    """Fold every vector of a source and write the result to one file, in order; see `apply`.

    Memory is bounded by some chunks of rows, except for .npz, which is read whole.

    Parameters
    ----------
    encoder : Applied
        The fold or codec.
    source : Source
        The vectors.
    out : pathlib.Path
        The file to write, whose ending says the format.
    dtype : dtype-like
        The dtype of the folded vectors.

    Returns
    -------
    Layout
        The layout of the file.

    Raises
    ------
    DataError
        A row is not finite, or can't be folded.
    FileError
        The source can't be read, or the file can't be written.
    """
    suffix = out.suffix.lower()
    check_output(encoder, source, os.fspath(out), suffix)
    layout = folded_layout(encoder, source, source.layout.rows, suffix, dtype)
    others = layout.others is not None
    if others:
        check_columns(source.parts, layout.name)
    with keeping(_local_paths(source)), open_sink(out, layout) as sink, stage("fold", layout.rows) as advance:
        chunks = located_chunks(source, others=others, finite=False)
        work = partial(_fold_located, encoder=encoder, dtype=dtype, columns=layout.others)
        # Reading and writing go on in this thread while others compute.
        for chunk in in_order(work, chunks, max(2, blas_threads())):
            sink.write(chunk)
            advance(len(chunk.vectors))
    return layout
