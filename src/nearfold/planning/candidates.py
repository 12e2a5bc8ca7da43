"""The pipelines that fit into a number of bytes."""

from __future__ import annotations

from collections.abc import Iterator

from nearfold.errors import ParameterError
from nearfold.pipeline.spec import PipelineSpec
from nearfold.quantizers.rabitq import RABITQ, rabitq_bytes
from nearfold.quantizers.scalar import FLOATS, SCALARS

__all__ = ["candidates", "ladder"]

_FOLDS = ("nearfold", "pca-uncentred")
# Dimensions for each byte of product codes, and of additive ones.
_DIMENSIONS_A_BYTE = (4, 8)
# Trained codes of more bytes keep hardly more than 8 bits a dimension, and take long to learn.
_MOST_LEARNED_BYTES = 128


def candidates(n_bytes: int, n_features: int) -> list[PipelineSpec]:
    """Return the pipelines that take at most `n_bytes` a vector, and most of them.

    Raises
    ------
    ParameterError
        Nothing fits.
    """
    found = list(dict.fromkeys(_candidates(n_bytes, n_features)))
    if not found:
        raise ParameterError(f"bytes={n_bytes}: no pipeline is that small; allow at least 2 bytes a vector")
    return found


def _candidates(n_bytes: int, d: int) -> Iterator[PipelineSpec]:
    for name, width in _numeric(n_bytes):
        if width >= d:
            yield PipelineSpec(None, None, name)
        elif width >= 1:
            # Less than 8 bits a dimension pays where the dimensions would be many; floats never do.
            for fold in _FOLDS if name == "SQ8" else _FOLDS[:1]:
                yield PipelineSpec(fold, width, name)
    if n_bytes <= d and d % n_bytes == 0:
        yield PipelineSpec(None, None, "PQ", n_bytes)
        yield PipelineSpec(None, None, "OPQ", n_bytes)
    for width in sorted({_multiple(n_bytes, each, d) for each in _DIMENSIONS_A_BYTE} - {0}):
        yield PipelineSpec(None, None, "OPQ", n_bytes, width)
        yield PipelineSpec("nearfold", width, "OPQ", n_bytes)
        yield PipelineSpec("pca-uncentred", width, "PQ", n_bytes)
        if n_bytes <= _MOST_LEARNED_BYTES:
            yield PipelineSpec("nearfold", width, "AQ", n_bytes)


def _numeric(n_bytes: int) -> Iterator[tuple[str, int]]:
    """Yield quantisers of single dimensions, and how many of those fit."""
    for name, size in FLOATS.items():
        yield name, n_bytes // size
    for name, bits in SCALARS.items():
        yield name, 8 * n_bytes // bits
    yield "Binary", 8 * n_bytes
    for name in RABITQ:
        fitting = [width for width in range(8, 8 * n_bytes + 1, 8) if rabitq_bytes(name, width) <= n_bytes]
        if fitting:
            yield name, fitting[-1]


def _multiple(n_bytes: int, each: int, d: int) -> int:
    """Return `each` dimensions a byte, or as many as there are; 0 where a byte has no whole ones."""
    return n_bytes * min(each, (d - 1) // n_bytes)


def ladder(n_features: int) -> list[int]:
    """Return the sizes that are tried where a recall is asked for: from d / 16 to 4 d bytes."""
    return [max(2, round(n_features * 2**step / 64) * 4) for step in range(7)]
