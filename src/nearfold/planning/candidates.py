"""The codecs that fit into a number of bytes."""

from __future__ import annotations

from collections.abc import Iterator

from nearfold.codecs.quantizers.rabitq import RABITQ, rabitq_bytes
from nearfold.codecs.quantizers.scalar import FLOATS, SCALARS
from nearfold.codecs.spec import CodecSpec
from nearfold.errors import ParameterError

__all__ = ["candidates", "ladder"]

_FOLDS = ("nearfold", "pca-uncentred")
# Dimensions a byte of product codes, and of additive ones, whose bytes share dimensions.
_PRODUCT_DIMENSIONS = (4, 8)
_ADDITIVE_DIMENSIONS = (8, 14)
# The share of the dimensions from which on fewer bits for more of them may not pay.
_MANY = 1 / 3
# Trained codes of more bytes keep hardly more than 8 bits a dimension, and take long to learn.
_MOST_LEARNED_BYTES = 128


def candidates(n_bytes: int, n_features: int) -> list[CodecSpec]:
    """Return the codecs that take at most `n_bytes` a vector, and most of them.

    Raises
    ------
    ParameterError
        Nothing fits.
    """
    found = list(dict.fromkeys(_candidates(n_bytes, n_features)))
    if not found:
        raise ParameterError(f"bytes={n_bytes}: no codec is that small; allow at least 2 bytes a vector")
    return found


def _candidates(n_bytes: int, d: int) -> Iterator[CodecSpec]:
    for name, size in FLOATS.items():
        # Behind a fold, 8 bits for more dimensions are always better.
        if n_bytes >= size * d:
            yield CodecSpec(None, None, name)
    for family in _numeric(n_bytes):
        # Of the quantisers of a kind, more dimensions of fewer bits are better until dimensions are many.
        widest = max((width for _, width in family), default=0)
        whole = min(((width, name) for name, width in family if width >= d), default=None)
        if whole:
            yield CodecSpec(None, None, whole[1])
        for name, width in family:
            if width in range(1, d) and (width == widest or width >= _MANY * d):
                # Neighbourhoods can be worth less than variance where hardly any dimension is left out.
                for fold in _FOLDS if name == "SQ8" and width >= _MANY * d else _FOLDS[:1]:
                    yield CodecSpec(fold, width, name)
    if n_bytes <= d and d % n_bytes == 0:
        yield CodecSpec(None, None, "OPQ", n_bytes)
    for width in _widths(n_bytes, _PRODUCT_DIMENSIONS, d):
        yield CodecSpec(None, None, "OPQ", n_bytes, width)
        yield CodecSpec("nearfold", width, "OPQ", n_bytes)
    if n_bytes <= _MOST_LEARNED_BYTES:
        for width in _widths(n_bytes, _ADDITIVE_DIMENSIONS, d):
            yield CodecSpec("nearfold", width, "AQ", n_bytes)


def _numeric(n_bytes: int) -> Iterator[list[tuple[str, int]]]:
    """Yield kinds of quantisers of single dimensions: names, and how many dimensions fit."""
    yield [(name, 8 * n_bytes // bits) for name, bits in SCALARS.items()]
    yield [("Binary", 8 * n_bytes)]
    fitting = []
    for name in RABITQ:
        widths = [width for width in range(8, 8 * n_bytes + 1, 8) if rabitq_bytes(name, width) <= n_bytes]
        fitting += [(name, widths[-1])] if widths else []
    yield fitting


def _widths(n_bytes: int, dimensions: tuple[int, ...], d: int) -> list[int]:
    """Return so many dimensions a byte, or as many as there are; one a byte is left to 8 bits, as good."""
    each = {min(wanted, (d - 1) // n_bytes) for wanted in dimensions}
    return [n_bytes * dimensions for dimensions in sorted(each) if dimensions > 1]


def ladder(n_features: int) -> list[int]:
    """Return the sizes that are tried where a recall is asked for: from d / 16 to 4 d bytes."""
    return [max(2, round(n_features * 2**step / 64) * 4) for step in range(7)]
