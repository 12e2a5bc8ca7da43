"""The names of codecs, composed in faiss's manner: `NearFold192,OPQ48`, `PCA96,SQ8`, `RaBitQ2`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nearfold.codecs.quantizers.rabitq import RABITQ
from nearfold.codecs.quantizers.scalar import FLOATS, SCALARS
from nearfold.errors import ParameterError
from nearfold.methods.registry import METHODS

__all__ = ["QUANTIZERS", "CodecSpec", "parse_spec"]

QUANTIZERS = {
    "F32": "float32, 4 bytes a dimension",
    "F16": "float16, 2 bytes a dimension",
    "SQ8": "8 bits a dimension",
    "SQ6": "6 bits a dimension",
    "SQ4": "4 bits a dimension, after a random rotation",
    "RaBitQ1..4": "1 to 4 bits a dimension after a random rotation, and factors of 8 or more bytes",
    "Binary": "the sign of each dimension, after a random rotation",
    "PQ<bytes>": "product quantisation",
    "OPQ<bytes>": "the same after a learned rotation; OPQ<bytes>_<dimensions> rotates to fewer dimensions",
    "AQ<bytes>": "additive codes learned with the fold, from neighbourhoods",
}
"""The quantisers by name, and what they keep."""

_FOLD = re.compile(r"(?P<method>[a-z]+(?:-[a-z]+)*)(?P<size>\d+%?)$", re.IGNORECASE)
_BYTES = re.compile(r"(?P<kind>PQ|OPQ|AQ)(?P<bytes>\d+)(?:_(?P<width>\d+))?$", re.IGNORECASE)
_PLAIN = {name.lower(): name for name in (*FLOATS, *SCALARS, *RABITQ, "Binary")}
_METHODS = {name.replace("-", ""): name for name, method in METHODS.items() if method.saves}
_TITLES = {"nearfold": "NearFold", "pca": "PCA", "pca-uncentred": "PCAUncentred", "rae": "RAE"}


@dataclass(frozen=True)
class CodecSpec:
    """What a codec is made of, before it has seen data.

    Parameters
    ----------
    method
        A fold's method, a name of the registry; None for no fold.
    n_components
        What it folds to: a number, or a share such as "25%"; None without a fold.
    quantizer
        F32, F16, SQ8, SQ6, SQ4, RaBitQ1 to RaBitQ4, Binary, PQ, OPQ or AQ.
    n_bytes
        The bytes of PQ, OPQ and AQ; 0 for others, whose bytes follow from the dimensions.
    width
        The dimensions that OPQ rotates to; None for all.
    """

    method: str | None
    n_components: int | str | None
    quantizer: str
    n_bytes: int = 0
    width: int | None = None

    def __str__(self) -> str:
        """Return the name, as `parse_spec` reads it."""
        parts = []
        if self.method is not None:
            title = _TITLES.get(self.method, self.method.replace("-", ""))
            parts.append(f"{title}{self.n_components}")
        size = f"{self.n_bytes}" if self.n_bytes else ""
        parts.append(f"{self.quantizer}{size}" + (f"_{self.width}" if self.width else ""))
        return ",".join(parts)


def parse_spec(text: str) -> CodecSpec:
    """Return what a codec's name says; case doesn't matter.

    Raises
    ------
    ParameterError
        It is not a fold, a quantiser, or both with a comma between.
    """
    parts = [part.strip() for part in text.split(",")]
    # faiss writes OPQ24_96,PQ24 for what is OPQ24_96 here.
    if (
        len(parts) > 1
        and re.match(r"opq", parts[-2], re.IGNORECASE)
        and re.match(r"pq", parts[-1], re.IGNORECASE)
    ):
        rotation, product = _BYTES.match(parts[-2]), _BYTES.match(parts[-1])
        if rotation and product and rotation["bytes"] == product["bytes"] and not product["width"]:
            parts.pop()
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise ParameterError(f"codec {text!r} must be a fold, a quantiser or both, such as NearFold192,OPQ48")
    quantizer = _quantizer(parts[-1])
    if len(parts) == 1 and quantizer is None:
        return CodecSpec(*_fold(parts[0], text), "F32")
    if quantizer is None:
        raise ParameterError(f"quantiser {parts[-1]!r} is unknown; use {', '.join(QUANTIZERS)}")
    method, size = _fold(parts[0], text) if len(parts) == 2 else (None, None)
    return CodecSpec(method, size, *quantizer)


def _fold(part: str, text: str) -> tuple[str, int | str]:
    match = _FOLD.match(part)
    name = match["method"].lower().replace("-", "") if match else ""
    if match is None or name not in _METHODS:
        raise ParameterError(
            f"codec {text!r}: {part!r} is no fold, such as NearFold96; methods are {', '.join(_METHODS)}, "
            f"quantisers {', '.join(QUANTIZERS)}"
        )
    size = match["size"]
    return _METHODS[name], size if size.endswith("%") else int(size)


def _quantizer(part: str) -> tuple[str, int, int | None] | None:
    if plain := _PLAIN.get(part.lower()):
        return plain, 0, None
    match = _BYTES.match(part)
    if match is None or int(match["bytes"]) == 0:
        return None
    kind, width = match["kind"].upper(), match["width"]
    if width is not None and kind != "OPQ":
        raise ParameterError(f"quantiser {part!r}: only OPQ rotates to fewer dimensions; fold before {kind}")
    return kind, int(match["bytes"]), None if width is None else int(width)
