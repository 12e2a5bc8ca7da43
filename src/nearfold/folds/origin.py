"""The parameters and facts that a fold carries beside its weights, with checks of their types and sizes."""

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
"""The name, in a file's metadata, of the digest of all other content of the file."""

# The most levels and values of parameters or facts, and the most characters of a text and of a name.
_DEPTH, _ITEMS, _TEXT, _NAME = 32, 100_000, 100_000, 200
_LARGEST = 1 << 63

_Share = Annotated[float, msgspec.Meta(ge=-1e-3, le=1.001)]


class Sampled(msgspec.Struct, frozen=True):
    """The statistics of a fold on a sample of its data, an entry of `drift_stats` in its facts.

    Attributes
    ----------
    rows : int
        The number of rows of the sample.
    recall : float
        The recall@10 within the sample, from 0 to 1.
    energy : float, optional
        The share of the energy that the fold keeps.
    loss : float, optional
        The loss of the fold's method.
    """

    rows: Positive
    recall: _Share
    energy: Annotated[float, msgspec.Meta(ge=-1e3, le=1.001)] | None = None
    loss: Annotated[float, msgspec.Meta(ge=-1e-3, le=1e30)] | None = None


class Facts(msgspec.Struct, frozen=True):
    """The facts of a fold that nearfold reads again; all other facts are only shown.

    Attributes
    ----------
    rows : int, optional
        The number of rows that the fold was learned from.
    fingerprint : str, optional
        A hash of evenly spaced rows of its data, which identifies that data.
    drift_stats : list of Sampled, default=[]
        The statistics on samples of its data, which `drift` compares new vectors with.
    new_rows : str, optional
        How rows that were not learned from are mapped, if the method has a separate step for them.
    nested : list of int, default=[]
        The numbers of first dimensions that are folds learned for their own sake.
    """

    rows: Count | None = None
    fingerprint: Annotated[str, msgspec.Meta(max_length=_NAME)] | None = None
    drift_stats: Annotated[list[Sampled], msgspec.Meta(max_length=100)] = []
    new_rows: str | None = None
    nested: Annotated[list[Positive], msgspec.Meta(max_length=1000)] = []

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Facts:
        """Return those of a fold's facts that nearfold reads.

        Parameters
        ----------
        facts : mapping
            All facts of the fold, by name.

        Raises
        ------
        ParameterError
            A fact that nearfold reads is not what it writes.
        """
        try:
            return msgspec.convert(dict(facts), cls)
        except msgspec.ValidationError as error:
            raise ParameterError(f"facts: {error}") from error


def checked_name(name: str, value: Any) -> str:
    """Return `value` if it is a text of at most 200 characters that UTF-8 can encode.

    Control characters are allowed, and are escaped where a name is shown.

    Raises
    ------
    ParameterError
        `value` is not such a text; the message calls it `name`.
    """
    if isinstance(value, str) and len(value) <= _NAME and not any("\ud800" <= c <= "\udfff" for c in value):
        return value
    raise ParameterError(f"{name}={value!r:.60} must be a text of at most {_NAME} characters")


def checked_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a fold's parameters as values of JSON; numbers that are not finite become None.

    Raises
    ------
    ParameterError
        JSON can't hold a value, or values are too many, nested too deeply, too long or too large.
    """
    return _copied("parameters", values)


def checked_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a fold's facts as values of JSON, after a check of those that nearfold reads.

    Raises
    ------
    ParameterError
        A value is refused by `checked_parameters` or `Facts.of`.
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
    """Return a value as JSON would return it; `left` holds the number of values that are still allowed."""
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
    raise ParameterError(f"{name}: holds a {type(value).__name__}, which JSON can't hold")


def content_digest(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensors and metadata, without the digest in the metadata, in hexadecimal."""
    known = {name: value for name, value in metadata.items() if name != DIGEST}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype.str}\0{tensor.shape}\0".encode())
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sealed(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata with the digest added, by which a reader verifies that nothing has changed."""
    return {**metadata, DIGEST: content_digest(tensors, metadata)}
