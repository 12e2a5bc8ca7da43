"""Codecs as plain named arrays, which some lines of any language decode: .npz and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32
from nearfold._utils.files import replacing
from nearfold.codecs.codec import Codec
from nearfold.codecs.projections import DualProjection, Projection, SharedProjection
from nearfold.codecs.quantizers.floats import Floats
from nearfold.errors import ParameterError
from nearfold.integrations.linear import linear_only
from nearfold.integrations.plain import numbers

__all__ = ["codec_arrays", "write_codec_json", "write_codec_npz"]


def codec_arrays(codec: Codec) -> dict[str, npt.NDArray[Any]]:
    """Return a codec as arrays that decode its codes, and prepare queries for what is decoded.

    A code is a string of bits, the lowest bit of each byte first, in which every `bits` bits name a word of
    the next codebook. The words are added up: those of codebook j in the dimensions `dims[j]`.

    Parameters
    ----------
    codec : Codec
        A codec of additive (AQ), rotated scalar (RSQ), product (PQ, OPQ), scalar (SQ) or sign (Binary) codes,
        whose fold, if any, is linear.

    Returns
    -------
    dict of str to ndarray
        `bits` (), int32; `width` (), int32, the dimensions w of decoded vectors; `codebooks` (books, 2**bits,
        s), float32; `dims` (books, s), int32; and, where queries are mapped, `query_weight` (w, d) and
        `query_bias` (w,), float32: query_weight q + query_bias is to be compared with decoded vectors.
        `score` (), str says how: "ip" by inner product, "l2" by Euclidean distance. Under cosine, inner
        products are cosines times a factor of each query, which its ranking doesn't depend on.

    Raises
    ------
    ParameterError
        The codec's fold is a network, or its codes are not sums of codewords (F32, F16, RaBitQ).
    """
    quantizer = codec.quantizer
    if isinstance(quantizer, Floats):
        kind = "<f4" if quantizer.name == "F32" else "<f2"
        raise ParameterError(
            f"{quantizer.name} codes are the bytes of numbers of type {kind}, and need no arrays to decode; "
            f"export the fold itself to map queries"
        )
    try:
        tables = quantizer.tables()
    except ParameterError as error:
        raise ParameterError(f"{error}; export it to faiss, which searches them") from error
    arrays: dict[str, npt.NDArray[Any]] = {
        "bits": np.array(tables.bits, np.int32),
        "width": np.array(quantizer.width, np.int32),
        "codebooks": tables.codebooks,
        "dims": tables.dims,
        "score": np.array(codec.projection.score),
    }
    mapped = _query_map(codec.projection)
    if mapped is not None:
        arrays |= {"query_weight": mapped[0], "query_bias": mapped[1]}
    return arrays


def _query_map(projection: Projection) -> tuple[Float32, Float32] | None:
    """Return weight (w, d) and bias (w,) of the map of queries; None where it changes nothing but norms."""
    if isinstance(projection, DualProjection):
        of_prepared, added = projection.query_map()
        weight = of_prepared.astype(np.float64)
        bias = np.zeros(len(weight)) if added is None else added.astype(np.float64)
        if projection.center is not None:
            bias = bias - weight @ projection.center
    elif isinstance(projection, SharedProjection):
        if projection.fold is None and projection.rotation is None:
            return None
        weight, bias = np.eye(projection.n_features), np.zeros(projection.n_features)
        if projection.fold is not None:
            encoder = linear_only(projection.fold, "a file of arrays")
            weight = encoder.weight.astype(np.float64)
            bias = np.zeros(len(weight)) if encoder.bias is None else encoder.bias.astype(np.float64)
        if projection.rotation is not None:
            weight, bias = projection.rotation @ weight, projection.rotation @ bias
    else:
        raise ParameterError(f"a {type(projection).__name__} can't be exported as arrays")
    return weight.astype(np.float32), bias.astype(np.float32)


def write_codec_npz(codec: Codec, path: str | os.PathLike[str]) -> None:
    """Write the arrays of `codec_arrays` as .npz, atomically.

    Parameters
    ----------
    codec : Codec
        The codec.
    path : path
        The file to write.

    Raises
    ------
    ParameterError
        As `codec_arrays` raises it.
    FileError
        The file can't be written.
    """
    arrays = codec_arrays(codec)
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def write_codec_json(codec: Codec, path: str | os.PathLike[str]) -> None:
    """Write the arrays of `codec_arrays` as a JSON object of nested lists, atomically.

    Each number is the shortest decimal that reads back as the same float32.

    Parameters
    ----------
    codec : Codec
        The codec.
    path : path
        The file to write.

    Raises
    ------
    ParameterError
        As `codec_arrays` raises it.
    FileError
        The file can't be written.
    """
    arrays = codec_arrays(codec)
    with replacing(path) as file:
        for i, (name, array) in enumerate(arrays.items()):
            file.write(f"{',' if i else '{'}\n {json.dumps(name)}: ".encode())
            for text in _listed(array):
                file.write(text.encode())
        file.write(b"\n}\n")


def _listed(array: npt.NDArray[Any]) -> Iterator[str]:
    """Yield the parts of an array as JSON."""
    if array.ndim == 0:
        yield json.dumps(array.item())
    elif array.ndim == 1:
        yield numbers(array)
    else:
        for i, part in enumerate(array):
            yield ",\n  " if i else "["
            yield from _listed(part)
        yield "]"
