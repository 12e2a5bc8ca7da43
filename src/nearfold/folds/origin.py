"""What a fold says of itself beside its weights: parameters and facts, bounded, known ones typed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from nearfold._utils.schema import Count, Positive
from nearfold.errors import ParameterError

__all__ = [
    "DIGEST",
    "Facts",
    "Sampled",
    "checked_facts",
    "checked_name",
    "checked_parameters",
    "content_digest",
    "sealed",
]

DIGEST = "content_sha256"
"""The name in a file's metadata of the digest of all else that the file holds."""

_DEPTH, _ITEMS, _TEXT, _NAME = 32, 100_000, 100_000, 200
_LARGEST = 1 << 63

_Share = Annotated[float, msgspec.Meta(ge=-1e-3, le=1.001)]


class Sampled(msgspec.Struct, frozen=True):
    """A fold's statistics on a sample of the data that it was learned from, as `drift_stats` in its facts."""

    rows: Positive
    recall: _Share
    energy: Annotated[float, msgspec.Meta(ge=-1e3, le=1.001)] | None = None
    loss: Annotated[float, msgspec.Meta(ge=-1e-3, le=1e30)] | None = None


class Facts(msgspec.Struct, frozen=True):
    """The facts of a fold that nearfold reads again; all others are only shown.

    Parameters
    ----------
    rows : int or None
        Number of rows that the fold was learned from.
    fingerprint : str or None
        Hash of evenly spaced rows of its data, which tells that data from other data.
    drift_stats : list of Sampled
        What the fold keeps of samples of its data, which `drift` compares new vectors with.
    new_rows : str or None
        How rows are mapped that were not learned from, where that is a step of its own.
    """

    rows: Count | None = None
    fingerprint: Annotated[str, msgspec.Meta(max_length=_NAME)] | None = None
    drift_stats: Annotated[list[Sampled], msgspec.Meta(max_length=100)] = []
    new_rows: str | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Facts:
        """Return the known ones of a fold's facts.

        Raises
        ------
        ParameterError
            One is not what nearfold writes.
        """
        try:
            return msgspec.convert(dict(facts), cls)
        except msgspec.ValidationError as error:
            raise ParameterError(f"facts: {error}") from error


def checked_name(name: str, value: Any) -> str:
    """Return a name as it is, or refuse what is no short text that UTF-8 can hold.

    Control characters are let through: whoever shows a name escapes them.

    Raises
    ------
    ParameterError
        It is none.
    """
    if isinstance(value, str) and len(value) <= _NAME and not any("\ud800" <= c <= "\udfff" for c in value):
        return value
    raise ParameterError(f"{name}={value!r:.60} must be a text of at most {_NAME} characters")


def checked_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a fold's parameters as JSON holds them; numbers that are not finite become None.

    Raises
    ------
    ParameterError
        There are values that JSON can't hold, or too many, too deep, too long or too large ones.
    """
    return _copied("parameters", values)


def checked_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a fold's facts, as `checked_parameters`, those of nearfold's own of their type.

    Raises
    ------
    ParameterError
        As `checked_parameters`, or `rows`, `fingerprint` or `drift_stats` is not what nearfold writes.
    """
    facts = _copied("facts", values)
    Facts.of(facts)
    return facts


def _copied(name: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ParameterError(f"{name} must be a mapping of names to values, not {type(values).__name__}")
    left = [_ITEMS]
    copied: dict[str, Any] = _plain(name, values, _DEPTH, left)
    return copied


def _plain(name: str, value: Any, depth: int, left: list[int]) -> Any:
    """Return a value as JSON gives it back; `left` counts down what there may still be."""
    left[0] -= 1
    if depth < 0 or left[0] < 0:
        raise ParameterError(f"{name}: is nested too deeply, or holds more than {_ITEMS:,} values")
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            checked_name(f"a name in {name}", key)
        return {key: _plain(f"{name}: {key}", item, depth - 1, left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item, depth - 1, left) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise ParameterError(f"{name}: holds an integer beyond 64 bits")
        return int(value)
    if isinstance(value, str):
        if len(value) > _TEXT:
            raise ParameterError(f"{name}: holds a text of {len(value):,} characters; at most {_TEXT:,}")
        return str(value)
    raise ParameterError(f"{name}: holds a {type(value).__name__}, which JSON can't")


def content_digest(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensors and metadata, but for the digest itself among the latter."""
    known = {name: value for name, value in metadata.items() if name != DIGEST}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype.str}\0{tensor.shape}\0".encode())
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sealed(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata with the digest by which a reader knows that nothing has changed since."""
    return {**metadata, DIGEST: content_digest(tensors, metadata)}
