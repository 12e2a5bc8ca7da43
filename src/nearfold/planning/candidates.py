"""The codecs that fit into a number of bytes."""

from __future__ import annotations

from collections.abc import Iterator

from nearfold.codecs.quantizers.registry import QUANTIZERS
from nearfold.codecs.spec import CodecSpec
from nearfold.errors import ParameterError

__all__ = ["candidates", "ladder"]


def candidates(n_bytes: int, n_features: int) -> list[CodecSpec]:
    """Return the codecs that the planner tries for a number of bytes.

    Parameters
    ----------
    n_bytes : int
        The most bytes of a code; codecs that take far fewer are left out.
    n_features : int
        The number d of dimensions of the vectors.

    Returns
    -------
    list of CodecSpec

    Raises
    ------
    ParameterError
        No codec fits.
    """
    found = list(dict.fromkeys(_candidates(n_bytes, n_features)))
    if not found:
        raise ParameterError(f"bytes={n_bytes}: no codec is that small; allow at least 2 bytes a vector")
    return found


def _candidates(n_bytes: int, n_features: int) -> Iterator[CodecSpec]:
    for family in QUANTIZERS:
        for spec, n_components, by_variance in family.candidates(n_bytes, n_features):
            if n_components is None:
                yield CodecSpec(None, None, spec)
                continue
            for method in ("nearfold", "pca-uncentred") if by_variance else ("nearfold",):
                yield CodecSpec(method, n_components, spec)


def ladder(n_features: int) -> list[int]:
    """Return the numbers of bytes that are tried if the caller wants a recall: from d / 16 to 4 d.

    Parameters
    ----------
    n_features : int
        The number d of dimensions of the vectors.

    Returns
    -------
    list of int
        Seven numbers, each twice the one before, but for rounding.
    """
    return [max(2, round(n_features * 2**step / 64) * 4) for step in range(7)]
