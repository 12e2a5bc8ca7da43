"""Fold vectors into one file, a chunk at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nearfold.arrays import check_finite, check_width
from nearfold.errors import DataError, FileError, NearfoldWarning
from nearfold.io.base import Chunk, Layout, Source
from nearfold.io.location import Location
from nearfold.io.vectors import checked_chunks, located_chunks, open_sink
from nearfold.pipeline.pipeline import Applied
from nearfold.progress import stage
from nearfold.threads import blas_threads, in_order

__all__ = ["check_output", "fold_file", "folded_chunks", "folded_layout", "keeps_columns"]


def keeps_columns(suffix: str) -> bool:
    """Return whether files of an ending can hold columns beside the vectors."""
    return suffix in (".parquet", ".arrow", ".feather")


def folded_layout(encoder: Applied, have: Layout, rows: int, suffix: str, dtype: npt.DTypeLike) -> Layout:
    """Return the layout of folded vectors in a file of some ending."""
    others = have.others if keeps_columns(suffix) else None
    origin = {"fold": repr(encoder)}
    return Layout(rows, encoder.n_components, np.dtype(dtype), have.name, others, origin)


def check_output(encoder: Applied, source: Source, out: str, suffix: str) -> None:
    """Refuse vectors that the encoder does not take, and to write over them; warn of columns lost."""
    have = source.layout
    check_width(source.path, have.n_features, encoder.n_features)
    if Location.of(source.path).holds(out):
        raise FileError(f"{out}: is the input itself; name another output")
    if have.others is not None and not keeps_columns(suffix):
        warnings.warn(
            f"{out}: only Parquet and Arrow keep the columns {', '.join(have.others.names)}; "
            f"they are left out",
            NearfoldWarning,
            stacklevel=3,
        )


def folded_chunks(
    encoder: Applied,
    source: Source,
    start: int,
    stop: int | None,
    *,
    others: bool,
    dtype: npt.DTypeLike,
) -> Iterator[Chunk]:
    """Yield a source's chunks folded; an error names file and row."""
    first = start
    for chunk in checked_chunks(source, start, stop, others=others, finite=False):
        yield _fold_chunk(encoder, chunk, source.path, first, dtype)
        first += len(chunk.vectors)


def _fold_chunk(encoder: Applied, chunk: Chunk, path: str, first_row: int, dtype: npt.DTypeLike) -> Chunk:
    try:
        folded = encoder.transform(chunk.vectors, dtype=dtype)
    except DataError:
        check_finite(chunk.vectors, path, first_row)
        raise
    return Chunk(folded, chunk.others)


def _fold_located(located: tuple[Chunk, str, int], encoder: Applied, dtype: npt.DTypeLike) -> Chunk:
    return _fold_chunk(encoder, *located, dtype)


def fold_file(
    encoder: Applied, source: Source, out: str | os.PathLike[str], dtype: npt.DTypeLike = np.float32
) -> Layout:
    """Fold every vector of `source` and write the result to one file, in order.

    Memory is bounded by some chunks of rows, except for .npz, which is read whole. Other columns
    go from Parquet or Arrow to Parquet or Arrow.

    Parameters
    ----------
    encoder
        Of the source's d dimensions.
    source
        From `open_source`.
    out
        A file whose ending names its format; it appears whole, or not at all.
    dtype
        Of the folded vectors: float32, float16 or float64.

    Returns
    -------
    The layout of what was written.

    Raises
    ------
    DataError
        The source's width is not the encoder's, or a row is not finite.
    FileError
        A file can't be read or written, or `out` is the source itself.
    """
    suffix = Path(out).suffix.lower()
    check_output(encoder, source, os.fspath(out), suffix)
    layout = folded_layout(encoder, source.layout, source.layout.rows, suffix, dtype)
    others = layout.others is not None
    with open_sink(out, layout) as sink, stage("fold", layout.rows) as advance:
        chunks = located_chunks(source, others=others, finite=False)
        work = partial(_fold_located, encoder=encoder, dtype=dtype)
        # Reading and writing go on in this thread while others compute.
        for chunk in in_order(work, chunks, max(2, blas_threads())):
            sink.write(chunk)
            advance(len(chunk.vectors))
    return layout
