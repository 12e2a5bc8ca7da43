"""Fold a file into another, a chunk at a time."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nearfold.errors import DataError, FileError, NearfoldWarning
from nearfold.fold import Fold
from nearfold.io.base import Chunk, Layout, Source
from nearfold.io.location import Location
from nearfold.io.vectors import checked_chunks, open_sink
from nearfold.progress import stage

__all__ = ["fold_file"]


def fold_file(
    encoder: Fold, source: Source, out: str | os.PathLike[str], dtype: npt.DTypeLike = np.float32
) -> Layout:
    """Fold every vector of `source` and write the result to `out`, in order.

    Memory is bounded by some chunks of rows, except for .npz, which is read whole. Other columns
    go from Parquet to Parquet.

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
    have = source.layout
    if have.n_features != encoder.n_features:
        raise DataError(
            f"{source.path}: has {have.n_features} dimensions, the encoder takes {encoder.n_features}; "
            f"use the vectors it was fitted for"
        )
    if Location.of(source.path).holds(out):
        raise FileError(f"{out}: is the input itself; name another output")
    keeps_columns = Path(out).suffix.lower() == ".parquet"
    if have.others is not None and not keeps_columns:
        warnings.warn(
            f"{out}: only Parquet keeps the columns {', '.join(have.others.names)}; they are left out",
            NearfoldWarning,
            stacklevel=2,
        )
    others = have.others if keeps_columns else None
    layout = Layout(have.rows, encoder.n_components, np.dtype(dtype), have.name, others)
    with open_sink(out, layout) as sink, stage("fold", have.rows) as advance:
        for chunk in checked_chunks(source):
            folded = encoder.transform(chunk.vectors, dtype=dtype)
            sink.write(Chunk(folded, chunk.others if keeps_columns else None))
            advance(len(folded))
    return layout
