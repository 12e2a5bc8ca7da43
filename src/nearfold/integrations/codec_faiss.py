"""Codecs as faiss indexes, which faiss alone can read and search with raw queries.

A faiss index has one chain of transforms for what is added and for what is searched. Codecs whose base and
queries share a map (`SharedProjection`) thus become indexes that take new vectors too. Additive and rotated
scalar codes have a map for each (`DualProjection`): their indexes have that of queries, and take codes.
"""

from __future__ import annotations

import os
import re
from typing import Any

import faiss
import numpy as np

from nearfold._utils.arrays import as_rows, check_directions, check_width, chunk_rows
from nearfold._utils.files import replacing
from nearfold._utils.progress import stage
from nearfold.codecs.codec import Codec
from nearfold.codecs.projections import DualProjection, Projection, SharedProjection, linear_transform
from nearfold.codecs.quantizers.base import Codes, faiss_ready
from nearfold.codecs.quantizers.product import Product
from nearfold.errors import DataError, ParameterError
from nearfold.integrations.faiss import transformed_index
from nearfold.integrations.linear import linear_only
from nearfold.io.base import Source
from nearfold.io.npy import ArraySource
from nearfold.io.vectors import as_source, located_chunks, open_source

__all__ = ["add_base", "add_codes", "codec_index", "takes_vectors", "write_codec_faiss"]

_MOST_LINKS = 1024


def takes_vectors(codec: Codec) -> bool:
    """Return whether a codec's faiss index encodes the vectors that are added to it as the codec does.

    Parameters
    ----------
    codec : Codec
        The codec.

    Returns
    -------
    bool
        False for additive and rotated scalar codes (AQ, RSQ), whose base vectors have a map of their own.
    """
    return not isinstance(codec.projection, DualProjection)


def codec_index(codec: Codec, factory: str = "Flat") -> Any:
    """Return an empty faiss index that takes queries as they are, and searches codes as the codec does.

    Parameters
    ----------
    codec : Codec
        A codec whose fold, if any, is linear.
    factory : str, default="Flat"
        "Flat" to look at every code, or such as "HNSW32" for a graph of so many links (F32, F16 and SQ).

    Returns
    -------
    faiss.IndexPreTransform
        An index of the codec's `n_features`. Its scores are those of `codec.index()`: squared distances for
        l2, larger is nearer otherwise; for AQ and RSQ under l2 they are q.b - |b|^2 / 2 for centred and
        mapped vectors, which rank as distances do.

    Raises
    ------
    ParameterError
        The codec's fold is a network, the factory string is another, or codes of this kind can't be linked in
        a graph.

    Notes
    -----
    `index.add(vectors)` encodes as the codec does, but for AQ and RSQ (see `takes_vectors`): faiss would
    apply the map of queries, and store codes that stand for something else, without an error. Add codes of
    `codec.encode` to such an index, by `add_codes` or by faiss alone:

    >>> faiss.downcast_index(index.index).add_sa_codes(codes)  # doctest: +SKIP
    >>> index.ntotal = index.index.ntotal  # doctest: +SKIP
    """
    transforms = _query_transforms(codec.projection)
    width = codec.projection.width
    # What prepares projected queries for an index only repeats and moves their numbers: dimensions say which.
    moved = codec.quantizer.prepare_queries(np.arange(width, dtype=np.float32)[None])[0].astype(np.int32)
    if not np.array_equal(moved, np.arange(width)):
        transforms.append(faiss.RemapDimensionsTransform(width, len(moved), faiss.swig_ptr(moved)))
    return transformed_index(transforms, _inner(codec, factory))


def _inner(codec: Codec, factory: str) -> Any:
    """Return the empty index of projected vectors."""
    if factory == "Flat":
        return codec.index()
    links = re.fullmatch("HNSW([1-9][0-9]{0,3})", factory)
    if links is None or not 2 <= int(links[1]) <= _MOST_LINKS:
        raise ParameterError(
            f"index={factory!r} is none that codes are exported in; use Flat, or HNSW and a number of links "
            f"from 2 to {_MOST_LINKS}"
        )
    if isinstance(codec.quantizer, Product):
        # faiss ends the process when it then adds to the index that it has read.
        raise ParameterError(
            f"{codec.quantizer.name} codes are linked by a table that faiss's file of a graph doesn't hold; "
            f"use Flat"
        )
    return codec.quantizer.graph_index(int(links[1]), codec.projection.score)


def _query_transforms(projection: Projection) -> list[Any]:
    """Return the transforms that map queries as the projection does, in the order of their application."""
    if isinstance(projection, SharedProjection):
        transforms = []
        if projection.fold is not None:
            encoder = linear_only(projection.fold, "a faiss index")
            transforms.append(linear_transform(encoder.weight, encoder.bias))
            folded = encoder.n_components
        else:
            folded = projection.n_features
        if projection.metric == "cosine":
            transforms.append(faiss.NormalizationTransform(folded, 2.0))
        if projection.rotation is not None:
            transforms.append(linear_transform(projection.rotation))
        return transforms
    if not isinstance(projection, DualProjection):
        raise ParameterError(f"a {type(projection).__name__} can't be exported to faiss")
    mapped = linear_transform(*projection.query_map())
    if projection.metric == "cosine":
        return [faiss.NormalizationTransform(projection.n_features, 2.0), mapped]
    if projection.center is None:
        return [mapped]
    centering = faiss.CenteringTransform(projection.n_features)
    faiss.copy_array_to_vector(projection.center, centering.mean)
    centering.is_trained = True
    return [centering, mapped]


def add_base(index: Any, codec: Codec, X: Any) -> None:
    """Encode vectors as the codec does, and add their codes to an index of `codec_index`.

    Parameters
    ----------
    index : faiss.IndexPreTransform
        The index.
    codec : Codec
        The codec that it was made of.
    X : array-like, data frame, path, URL or Source
        The vectors, of shape (n, d) and any real dtype; they are read in chunks.

    Raises
    ------
    DataError
        The vectors have other dimensions than the codec takes, or a row is not finite, or zero under cosine.
    FileError
        A file can't be read.
    """
    source = as_source(X, name="base")
    check_width(source.path, source.layout.n_features, codec.n_features)
    graph = isinstance(faiss.downcast_index(index.index), faiss.IndexHNSW)
    with stage("encode", source.layout.rows) as advance:
        for chunk, path, row in located_chunks(source):
            if codec.metric == "cosine":
                check_directions(chunk.vectors, path, row)
            if graph:
                index.add(faiss_ready(chunk.vectors, path))
            else:
                _add(index, codec.encode(chunk.vectors))
            advance(len(chunk.vectors))


def add_codes(index: Any, codec: Codec, codes: Any) -> None:
    """Add codes that `codec.encode` or `nearfold apply` made to an index of `codec_index`.

    Parameters
    ----------
    index : faiss.IndexPreTransform
        The index.
    codec : Codec
        The codec that it was made of.
    codes : array-like, path, URL or Source
        The codes, of shape (n, bytes_per_vector) and dtype uint8; they are read in chunks.

    Raises
    ------
    ParameterError
        The index is a graph, which is made of vectors.
    DataError
        They are not bytes, not as many as a code has, or stand for no vector.
    FileError
        A file can't be read.
    """
    if isinstance(faiss.downcast_index(index.index), faiss.IndexHNSW):
        raise ParameterError("codes alone can't be linked in a graph; give the vectors as base, or use Flat")
    source: Source
    if isinstance(codes, Source):
        source = codes
    elif isinstance(codes, str | os.PathLike):
        source = open_source(codes)
    else:
        source = ArraySource("codes", as_rows(codes, "codes"))
    layout, wanted = source.layout, codec.bytes_per_vector
    if layout.dtype != np.uint8 or layout.n_features != wanted:
        raise DataError(
            f"{source.path}: holds {layout.n_features} numbers of type {layout.dtype} a row, and codes of "
            f"{codec.spec} are {wanted} of type uint8; make them with `nearfold apply` or Codec.encode"
        )
    for chunk in source.chunks(chunk_rows(wanted), others=False):
        given = np.ascontiguousarray(chunk.vectors)
        try:
            codec.quantizer.check_codes(given)
        except ValueError as error:
            raise DataError(f"{source.path}: {error}") from error
        _add(index, given)


def _add(index: Any, codes: Codes) -> None:
    inner = faiss.downcast_index(index.index)
    inner.add_sa_codes(codes)
    # What the inner index is given goes by the outer one.
    index.ntotal = inner.ntotal


def write_codec_faiss(
    codec: Codec,
    path: str | os.PathLike[str],
    factory: str = "Flat",
    *,
    base: Any = None,
    codes: Any = None,
) -> Any:
    """Write the index of `codec_index` to a file that `faiss.read_index` reads, atomically.

    Parameters
    ----------
    codec : Codec
        A codec whose fold, if any, is linear.
    path : path
        The file to write.
    factory : str, default="Flat"
        As for `codec_index`.
    base : array-like, data frame, path, URL or Source, optional
        Vectors (n, d) to encode into the index; see `add_base`. Without base and codes the index is empty.
    codes : array-like, path, URL or Source, optional
        Codes (n, bytes_per_vector) to put into the index instead; see `add_codes`.

    Returns
    -------
    faiss.IndexPreTransform
        The index that was written.

    Raises
    ------
    ParameterError
        Both base and codes are given, or as `codec_index` and `add_codes` raise it.
    DataError, FileError
        As `add_base` and `add_codes` raise them, or the file can't be written.
    """
    if base is not None and codes is not None:
        raise ParameterError("base and codes are both given; give the vectors, or the codes made of them")
    index = codec_index(codec, factory)
    if base is not None:
        add_base(index, codec, base)
    if codes is not None:
        add_codes(index, codec, codes)
    with replacing(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    return index
