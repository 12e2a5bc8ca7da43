"""The names of codecs, composed in faiss's manner: `NearFold192,OPQ48`, `PCA96,SQ8`, `RaBitQ2`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nearfold.codecs.quantizers.base import QuantizerSpec
from nearfold.codecs.quantizers.registry import NAMES, parse_quantizer
from nearfold.errors import ParameterError
from nearfold.methods.registry import METHODS

__all__ = ["CodecSpec", "parse_spec"]

_FOLD = re.compile(r"(?P<method>[a-z]+(?:-[a-z]+)*)(?P<size>\d+%?)$", re.IGNORECASE)
# faiss writes OPQ24_96,PQ24 for what is OPQ24_96 here.
_FAISS_OPQ = re.compile(r"(opq(\d+)(?:_\d+)?)\s*,\s*pq\2\s*$", re.IGNORECASE)
_METHODS = {name.replace("-", ""): name for name, method in METHODS.items() if method.saves}
_TITLES = {"nearfold": "NearFold", "pca": "PCA", "pca-uncentred": "PCAUncentred", "rae": "RAE"}


@dataclass(frozen=True)
class CodecSpec:
    """What a codec is made of, before it has seen data.

    Parameters
    ----------
    method : str, optional
        The method of the fold, a name of `nearfold.methods.registry.METHODS`; None for no fold.
    n_components : int or str, optional
        The dimensions to fold to: a number, or a share such as "25%"; None without a fold.
    quantizer : QuantizerSpec
        The quantiser.
    """

    method: str | None
    n_components: int | str | None
    quantizer: QuantizerSpec

    def __str__(self) -> str:
        """Return the name, as `parse_spec` reads it."""
        if self.method is None:
            return str(self.quantizer)
        title = _TITLES.get(self.method, self.method.replace("-", ""))
        return f"{title}{self.n_components},{self.quantizer}"


def parse_spec(text: str) -> CodecSpec:
    """Return what a codec's name says; case doesn't matter.

    Parameters
    ----------
    text : str
        A fold, a quantiser, or both with a comma between, such as "NearFold192,AQ24".

    Raises
    ------
    ParameterError
        It is no such name.
    """
    parts = [part.strip() for part in _FAISS_OPQ.sub(r"\1", text).split(",")]
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise ParameterError(f"codec {text!r} must be a fold, a quantiser or both, such as NearFold192,OPQ48")
    quantizer = parse_quantizer(parts[-1])
    if quantizer is None:
        if len(parts) == 1:
            return CodecSpec(*_fold(parts[0], text), QuantizerSpec("F32"))
        raise ParameterError(f"quantiser {parts[-1]!r} is unknown; use {', '.join(NAMES)}")
    method, size = _fold(parts[0], text) if len(parts) == 2 else (None, None)
    return CodecSpec(method, size, quantizer[1])


def _fold(part: str, text: str) -> tuple[str, int | str]:
    match = _FOLD.match(part)
    name = match["method"].lower().replace("-", "") if match else ""
    if match is None or name not in _METHODS:
        raise ParameterError(
            f"codec {text!r}: {part!r} is no fold, such as NearFold96; methods are {', '.join(_METHODS)}, "
            f"quantisers {', '.join(NAMES)}"
        )
    size = match["size"]
    return _METHODS[name], size if size.endswith("%") else int(size)
