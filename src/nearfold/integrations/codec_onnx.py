"""The encoders of codecs as ONNX models: float32 vectors in, bytes out."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float32
from nearfold._utils.extras import import_extra
from nearfold._utils.files import replacing
from nearfold.codecs.codec import Codec
from nearfold.codecs.projections import DualProjection, Projection, SharedProjection
from nearfold.codecs.quantizers.additive import SWEEPS, Additive
from nearfold.codecs.quantizers.base import CODEWORDS, Quantizer
from nearfold.codecs.quantizers.codewords import CodebookGroup, home_slices
from nearfold.codecs.quantizers.floats import Floats
from nearfold.codecs.quantizers.product import Product
from nearfold.codecs.quantizers.rotated import BITS, Rotated
from nearfold.codecs.quantizers.scalar import SCALARS, Scalar
from nearfold.errors import ParameterError
from nearfold.integrations.onnx import Graph

__all__ = ["codec_onnx_model", "write_codec_onnx"]


def codec_onnx_model(codec: Codec) -> Any:
    """Return the encoder of a codec as an ONNX model.

    Its input `vectors` has shape (batch, d) and type float32, for a batch of any size. Its output `codes` has
    shape (batch, bytes_per_vector) and type uint8. Codes are those of `codec.encode`, but where two are as
    good within rounding. What `encode` refuses is not refused: rows that are zero under cosine or not finite
    get codes that mean nothing.

    Parameters
    ----------
    codec : Codec
        A codec of additive (AQ), rotated scalar (RSQ), product (PQ, OPQ), scalar (SQ) or sign (Binary) codes.

    Returns
    -------
    onnx.ModelProto
        A model of IR version 8 and operator set 18, which runtimes from 2023 on can run.

    Raises
    ------
    MissingExtraError
        The package onnx is not installed.
    ParameterError
        The codec's codes hold floating-point numbers (F32, F16, RaBitQ), whose bytes operators of ONNX can't
        give.
    """
    _check(codec.quantizer)
    onnx = import_extra("onnx", "onnx", "exporting to ONNX")
    graph = Graph(onnx)
    nodes = _Nodes(graph, onnx.TensorProto)
    images = nodes.images(codec.projection)
    codes = nodes.codes(images, codec.quantizer)
    kind = onnx.TensorProto.UINT8
    graph.node("Cast", codes, output="codes", to=kind)
    facts = {"nearfold.method": codec.spec, "nearfold.metric": codec.metric}
    return graph.model("codec", codec.n_features, ("codes", kind, codec.bytes_per_vector), facts)


def write_codec_onnx(codec: Codec, path: str | os.PathLike[str]) -> None:
    """Write the model of `codec_onnx_model` to a file, atomically.

    Parameters
    ----------
    codec : Codec
        The codec.
    path : path
        The file to write.

    Raises
    ------
    MissingExtraError, ParameterError
        As `codec_onnx_model` raises them.
    FileError
        The file can't be written.
    """
    model = codec_onnx_model(codec)
    with replacing(path) as file:
        file.write(model.SerializeToString())


def _check(quantizer: Quantizer) -> None:
    if isinstance(quantizer, Floats):
        raise ParameterError(
            f"{quantizer.name} codes are the folded vectors' own bytes; export the fold to ONNX instead, "
            f"and keep its output as {'float32' if quantizer.name == 'F32' else 'float16'}"
        )
    if not isinstance(quantizer, Additive | Product | Rotated | Scalar):
        raise ParameterError(
            f"{quantizer.name} codes can't be made by operators of ONNX, as they hold the bytes of floats; "
            f"encode with nearfold, export to faiss, or use a codec of RSQ or SQ codes"
        )


class _Nodes:
    """Adds to a graph what encodes vectors."""

    def __init__(self, graph: Graph, kinds: Any) -> None:
        self._graph, self._kinds = graph, kinds
        self._int32, self._int64 = kinds.INT32, kinds.INT64

    @property
    def _columns(self) -> str:
        """The axis of columns."""
        return self._graph.constant(np.array([1], np.int64))

    def images(self, projection: Projection) -> str:
        """Add the projection of `vectors`."""
        graph, found = self._graph, "vectors"
        if isinstance(projection, SharedProjection):
            if projection.fold is not None:
                found = graph.folded(found, projection.fold)
            if projection.metric == "cosine":
                found = graph.normalized(found)
            return found if projection.rotation is None else graph.linear(found, projection.rotation)
        if not isinstance(projection, DualProjection):
            raise ParameterError(f"a {type(projection).__name__} can't be exported as ONNX")
        if projection.metric == "cosine":
            found = graph.normalized(found)
        if projection.center is not None:
            found = graph.node("Sub", found, graph.constant(projection.center))
        mapped = graph.linear(found, projection.base_weight)
        return self._widened(mapped, projection)

    def _widened(self, mapped: str, projection: DualProjection) -> str:
        """Add what `nearfold.codecs.projections.widened` adds to images of base vectors."""
        graph, missing = self._graph, projection.width - len(projection.base_weight)
        if not missing:
            return mapped
        if projection.metric != "l2":
            return self._padded(mapped, missing)
        squares = graph.node("ReduceSumSquare", mapped, self._columns, keepdims=1)
        scale = graph.constant(np.array(-1 / (2 * projection.scale), np.float32))
        last = graph.node("Mul", squares, scale)
        return graph.node("Concat", self._padded(mapped, missing - 1), last, axis=1)

    def codes(self, images: str, quantizer: Quantizer) -> str:
        """Add the codes of images, of any integer type."""
        if isinstance(quantizer, Additive):
            return self._additive(images, quantizer)
        if isinstance(quantizer, Product):
            return self._product(images, quantizer.tensors()["codebooks"])
        if isinstance(quantizer, Rotated):
            return self._levels(images, quantizer.tensors()["levels"], BITS[quantizer.name])
        return self._steps(images, quantizer.tensors()["ranges"], SCALARS[quantizer.name])

    def _product(self, images: str, codebooks: Float32) -> str:
        """Add the nearest codeword of each group of dimensions; codebooks (groups, 256, s)."""
        graph, (groups, _, each) = self._graph, codebooks.shape
        shape = graph.constant(np.array([0, groups, each], np.int64))
        parts = graph.node("Transpose", graph.node("Reshape", images, shape), perm=[1, 0, 2])
        products = graph.node("MatMul", parts, graph.constant(codebooks.transpose(0, 2, 1)))
        halves = 0.5 * np.einsum("gks,gks->gk", codebooks, codebooks)
        scores = graph.node("Sub", products, graph.constant(halves[:, None]))
        return graph.node("Transpose", graph.node("ArgMax", scores, axis=2, keepdims=0), perm=[1, 0])

    def _steps(self, images: str, ranges: Float32, bits: int) -> str:
        """Add the number of steps of each dimension above its least value, as faiss counts them."""
        graph, (least, spans) = self._graph, np.split(ranges, 2)
        # A dimension without a range has step 0, whatever is in it.
        spans = np.where(spans > 0, spans, np.float32(np.inf))
        above = graph.node("Sub", images, graph.constant(least))
        shares = graph.node("Div", above, graph.constant(spans))
        ends = [graph.constant(np.array(end, np.float32)) for end in (0, 1)]
        most = graph.constant(np.array(2**bits - 1, np.float32))
        # Casting leaves out what is behind the point.
        numbers = graph.node("Mul", graph.node("Clip", shares, *ends), most)
        return self._packed(graph.node("Cast", numbers, to=self._int32), len(least), bits)

    def _levels(self, images: str, levels: Float32, bits: int) -> str:
        """Add the number of the nearest level of each dimension; levels (m, 2**bits) that rise."""
        graph, bounds = self._graph, ((levels[:, 1:] + levels[:, :-1]) / 2).T
        own = self._sliced(images, slice(0, len(levels)))
        passed = [
            graph.node("Cast", graph.node("Greater", own, graph.constant(bound)), to=self._int32)
            for bound in bounds
        ]
        numbers = passed[0] if len(passed) == 1 else self._total(passed)
        return self._packed(numbers, len(levels), bits)

    def _total(self, numbers: list[str]) -> str:
        total = numbers[0]
        for each in numbers[1:]:
            total = self._graph.node("Add", total, each)
        return total

    def _packed(self, numbers: str, n: int, bits: int) -> str:
        """Add the bytes of n int32 numbers of so many bits a row, the first in the lowest bits."""
        if bits == 8:
            return numbers
        graph = self._graph
        together = math.lcm(bits, 8)
        each, n_bytes = together // bits, together // 8
        groups = -(-n // each)
        padded = self._padded(numbers, -n % each)
        parts = graph.node("Reshape", padded, graph.constant(np.array([0, groups, each], np.int64)))
        powers = graph.constant(np.left_shift(1, bits * np.arange(each)).astype(np.int32))
        axis = graph.constant(np.array([2], np.int64))
        sums = graph.node("ReduceSum", graph.node("Mul", parts, powers), axis, keepdims=int(n_bytes > 1))
        if n_bytes == 1:
            return sums
        shifts = graph.constant(np.left_shift(1, 8 * np.arange(n_bytes)).astype(np.int32))
        byte = graph.constant(np.array(CODEWORDS, np.int32))
        split = graph.node("Mod", graph.node("Div", sums, shifts), byte)
        flat = graph.node("Reshape", split, graph.constant(np.array([0, groups * n_bytes], np.int64)))
        return self._sliced(flat, slice(0, -(-n * bits // 8)))

    def _additive(self, images: str, quantizer: Additive) -> str:
        """Add the codes that `Additive.encode` chooses, with every sweep written out."""
        graph = self._graph
        found = [self._group(images, group) for group in quantizer.groups]
        codes = [code for codes, _ in found for code in codes]
        if quantizer.norms is not None:
            squares = [graph.node("ReduceSumSquare", meant, self._columns, keepdims=1) for _, meant in found]
            total = self._total(squares)
            halves = graph.node("Mul", total, graph.constant(np.array(-0.5, np.float32)))
            between = (quantizer.norms[1:] + quantizer.norms[:-1]) / 2
            passed = graph.node("Greater", halves, graph.constant(between))
            counted = graph.node("Cast", passed, to=self._int64)
            codes.append(graph.node("ReduceSum", counted, self._columns, keepdims=1))
        return graph.node("Concat", *codes, axis=1)

    def _group(self, images: str, group: CodebookGroup) -> tuple[list[str], str]:
        """Add the choice of a group's codewords: their numbers, (n, 1) each, and their sum (n, s)."""
        graph = self._graph
        rows = self._sliced(images, group.dims)
        books = [graph.constant(book) for book in group.codebooks]
        homes = home_slices(len(books), group.codebooks.shape[2])
        codes = [
            self._nearest(self._sliced(rows, home), graph.constant(words), words)
            for home in homes
            for words in [np.ascontiguousarray(group.starts[:, home])]
        ]
        left = rows
        for book, code in zip(books, codes, strict=True):
            left = graph.node("Sub", left, graph.node("Gather", book, code))
        for j in list(range(len(books))) * SWEEPS:
            left = graph.node("Add", left, graph.node("Gather", books[j], codes[j]))
            codes[j] = self._nearest(left, books[j], group.codebooks[j])
            left = graph.node("Sub", left, graph.node("Gather", books[j], codes[j]))
        return [graph.node("Unsqueeze", code, self._columns) for code in codes], graph.node("Sub", rows, left)

    def _nearest(self, vectors: str, book: str, words: Float32) -> str:
        """Add the number of the nearest of words (256, s), which the graph has as `book`: shape (n,)."""
        halves = self._graph.constant(-0.5 * np.einsum("ks,ks->k", words, words))
        scores = self._graph.node("Gemm", vectors, book, halves, transB=1)
        return self._graph.node("ArgMax", scores, axis=1, keepdims=0)

    def _sliced(self, rows: str, columns: slice) -> str:
        """Add some columns of rows."""
        bounds = [self._graph.constant(np.array([end], np.int64)) for end in (columns.start, columns.stop)]
        return self._graph.node("Slice", rows, *bounds, self._columns)

    def _padded(self, rows: str, more: int) -> str:
        """Add rows with so many zeros behind each."""
        if not more:
            return rows
        return self._graph.node("Pad", rows, self._graph.constant(np.array([0, 0, 0, more], np.int64)))
