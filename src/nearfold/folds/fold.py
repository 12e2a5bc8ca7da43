"""The base class of folds: small immutable values that map vectors to fewer dimensions.

Applying a fold needs numpy alone; reading and writing it needs safetensors.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, ClassVar, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric, as_rows, check_finite, check_metric, chunk_rows
from nearfold._utils.files import cause, open_regular, replacing
from nearfold._utils.schema import checked_json
from nearfold._utils.warned import warn
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.folds.card import card_path, card_text, is_card
from nearfold.folds.origin import (
    DIGEST,
    Facts,
    checked_facts,
    checked_name,
    checked_parameters,
    content_digest,
    sealed,
)
from nearfold.version import __version__

__all__ = [
    "FORMAT_VERSION",
    "Fold",
    "FoldFile",
    "as_fold",
    "fold_checksum",
    "frozen_array",
    "other_kind",
    "read_fold_file",
    "read_metadata",
    "read_safetensors",
    "safetensors_bytes",
]

FORMAT_VERSION = 1

_NUMBER = re.compile("[0-9]{1,9}")

# The bytes of rows that are folded at a time: enough for a matrix product to reach full speed.
_CHUNK_BYTES = 32 << 20
_OUTPUT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16))


# The largest header that safetensors itself reads.
_MAX_HEAD = 100_000_000


class _TensorHead(msgspec.Struct):
    """The place of a tensor in a safetensors file."""

    data_offsets: tuple[int, int]


class Fold(ABC):
    """A map from d to m dimensions, the metric to search its results by, and its origin.

    Subclasses are dataclasses (or have a `__reduce__` of their own), hold `metric`, `method`, `parameters`
    and `facts` beside their weights, and map vectors in `_apply`.
    """

    metric: Metric
    """The metric to search folded vectors by: "cosine", "l2" or "ip"."""

    method: str
    """The name of the method that learned the fold."""

    parameters: Mapping[str, Any]
    """The parameters of that method."""

    facts: Mapping[str, Any]
    """What training saw and found, such as the number of rows."""

    format_name: ClassVar[str]
    """The name of the format in the metadata of such a fold's file."""

    @property
    @abstractmethod
    def n_components(self) -> int:
        """The number m of reduced dimensions."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """The number d of dimensions of the input."""

    @abstractmethod
    def _apply(self, vectors: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        """Fold float32 or float64 vectors (n, d) into `out` (n, m), which is of any float dtype."""

    @abstractmethod
    def tensors(self) -> dict[str, Float32]:
        """Return the weights by name, as `save` writes them: float32 arrays."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy can't be pickled; rebuild from plain values.
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return type(self), tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)

    def __repr__(self) -> str:
        name, shape = type(self).__name__, f"{self.n_features} -> {self.n_components}"
        return f"{name}({self.method or 'unnamed'}, {shape}, {self.metric})"

    def transform(self, X: npt.ArrayLike, *, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Fold vectors.

        Beyond the input and the result this takes some tens of megabytes of memory, so `X` may be a
        memory-mapped array of any size.

        Parameters
        ----------
        X : array-like of shape (n, d)
            The vectors, of any real dtype (float32, float16, float64, uint8, int8, ...).
        dtype : dtype, default=float32
            The dtype of the result: float32, float16 or float64. Computation is in float32, or in float64 if
            `X` is float64.

        Returns
        -------
        ndarray of shape (n, m)
            The folded vectors.

        Raises
        ------
        DataError
            `X` is not two-dimensional or does not have d columns, or a row is not finite or leaves the range
            of `dtype`.
        ParameterError
            `dtype` is none of the three.
        """
        rows = as_rows(X)
        if rows.shape[1] != self.n_features:
            raise DataError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features} features as input; give vectors of the kind it was fitted on"
            )
        try:
            target = np.dtype(dtype)
        except TypeError as error:
            raise ParameterError(f"dtype={dtype!r} is not a dtype: {error}") from error
        if target not in _OUTPUT_DTYPES:
            raise ParameterError(
                f"dtype={dtype!r} can't hold folded vectors; use float32, float16 or float64"
            )
        out = np.empty((len(rows), self.n_components), target)
        # float64 input keeps its precision until the last rounding.
        arithmetic = np.dtype(np.float64 if rows.dtype.kind == "f" and rows.itemsize >= 8 else np.float32)
        step = chunk_rows(self.n_features, _CHUNK_BYTES)
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            with np.errstate(over="ignore", invalid="ignore"):
                vectors = chunk.astype(arithmetic, copy=False)
                self._apply(vectors, out[start : start + step])
            _check_folded(vectors, out[start : start + step], start)
        return out

    @property
    def known_facts(self) -> Facts:
        """The facts that nearfold itself reads: the rows, a fingerprint of the data, drift statistics."""
        return Facts.of(self.facts)

    def with_facts(self, **facts: Any) -> Self:
        """Return the same fold with further facts.

        Parameters
        ----------
        **facts
            The facts to add or replace, as values that JSON can hold.

        Returns
        -------
        Fold
            A copy of the same class.

        Raises
        ------
        ParameterError
            JSON can't hold a fact, or a fact that nearfold reads is not what it writes.
        """
        changed = copy.copy(self)
        object.__setattr__(changed, "facts", MappingProxyType(checked_facts({**self.facts, **facts})))
        return changed

    def card(self) -> str:
        """Return the fold's card, a description of its use, its recall and its limits in Markdown."""
        return self._card(self._content())

    def save(self, path: str | os.PathLike[str], *, card: bool = True) -> None:
        """Write the fold to a safetensors file, atomically, with a card beside it.

        Parameters
        ----------
        path : str or path
            The file to write.
        card : bool, default=True
            Whether to write the card as well, as fold.card.md beside fold.safetensors. A file of that name
            that is not a card of nearfold is left as it is, with a warning.

        Raises
        ------
        FileError
            The file can't be written.
        """
        content = self._content()
        with replacing(path) as file:
            file.write(content)
        if card:
            self._save_card(card_path(Path(path)), content)

    def _save_card(self, path: Path, content: bytes) -> None:
        """Write the card, unless its path, which the user did not name, belongs to another file."""
        if os.path.lexists(path) and not is_card(path):
            warn(f"{path}: is no card of nearfold and stays as it is; the fold is saved without a card")
            return
        with replacing(path) as file:
            file.write(self._card(content).encode())

    def _card(self, content: bytes) -> str:
        return card_text(
            kind=self.format_name,
            n_features=self.n_features,
            n_components=self.n_components,
            metric=self.metric,
            method=self.method,
            parameters=self.parameters,
            facts=self.facts,
            checksum=hashlib.sha256(content).hexdigest(),
        )

    def _content(self) -> bytes:
        """Return the content of the fold's file."""
        metadata = {
            "format": self.format_name,
            "format_version": str(FORMAT_VERSION),
            "nearfold": __version__,
            "metric": self.metric,
            "method": self.method,
            "parameters": json.dumps(dict(self.parameters), sort_keys=True),
            "facts": json.dumps(dict(self.facts), sort_keys=True),
        }
        return safetensors_bytes(self.tensors(), sealed(self.tensors(), metadata))

    def _freeze_origin(self) -> None:
        """Check the metric and the method, and replace parameters and facts by checked read-only copies."""
        set_ = object.__setattr__
        set_(self, "metric", check_metric(self.metric))
        set_(self, "method", checked_name("method", self.method))
        set_(self, "parameters", MappingProxyType(checked_parameters(self.parameters)))
        set_(self, "facts", MappingProxyType(checked_facts(self.facts)))


def _check_folded(vectors: npt.NDArray[Any], out: npt.NDArray[Any], first_row: int) -> None:
    """Refuse rows that are not finite, or whose fold is not.

    NaN and infinity survive a matrix product (0 * inf is NaN), so it suffices to check the m columns of the
    result, not the d of the input. A finite sum, taken by BLAS, proves that all of its terms are finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        summable = out.astype(np.float32) if out.dtype == np.float16 else out
        sums = np.ones(len(out), summable.dtype) @ summable
    if np.isfinite(sums).all() or np.isfinite(out).all():
        return
    check_finite(vectors, "X", first_row)
    bad = first_row + int(np.flatnonzero(~np.isfinite(out).all(axis=1))[0])
    raise DataError(f"row {bad} of X folds to numbers beyond {out.dtype}; scale the vectors down")


def frozen_array(array: npt.NDArray[Any], name: str) -> Float32:
    """Return a read-only float32 copy of a two-dimensional array.

    Raises
    ------
    DataError
        A value is not finite; the message begins with `name`.
    """
    copied = np.array(array, dtype=np.float32, order="C")
    check_finite(copied, name)
    copied.flags.writeable = False
    return copied


def as_fold(fold: Any) -> Any:
    """Return a fold or a codec itself, or the fold that a fitted estimator has learned.

    Parameters
    ----------
    fold : Fold, Codec or estimator
        The fold, the codec, or a fitted estimator of this package.

    Returns
    -------
    Fold or Codec

    Raises
    ------
    ParameterError
        `fold` is an estimator that is not fitted, or none of these.
    """
    if hasattr(fold, "n_components") and hasattr(fold, "format_name"):
        return fold
    learned = getattr(fold, "encoder_", None)
    if learned is None:
        raise ParameterError(
            f"{type(fold).__name__} is no fold; give a fitted estimator, or what `fit` or `load` returns"
        )
    return learned


_KINDS = {
    "nearfold.encoder": "a linear fold",
    "nearfold.mlp": "a non-linear fold",
    "nearfold.codec": "a codec",
    # The first name of codecs, which older files have.
    "nearfold.pipeline": "a codec",
    "nearfold.scan": "the checkpoint of a scan",
}


def other_kind(path: str | os.PathLike[str], format_name: str, wanted: str) -> FileError:
    """Return the error for a file of nearfold that holds another kind of object than the wanted one.

    Parameters
    ----------
    path : str or path
        The file.
    format_name : str
        The name of the format in its metadata.
    wanted : str
        The wanted kind, with its article, as in "a linear fold".
    """
    held = _KINDS.get(format_name)
    if held is None:
        return FileError(
            f"{path}: holds {format_name!r:.60}, which this version does not know; upgrade nearfold"
        )
    return FileError(f"{path}: holds {held}, not {wanted}; nearfold.load reads whatever nearfold wrote")


class FoldFile(NamedTuple):
    """The content of a file that `Fold.save` wrote; the metadata is checked, but not the tensors' shapes."""

    format_name: str
    tensors: dict[str, npt.NDArray[Any]]
    origin: dict[str, Any]
    """The metric, the method, its parameters and the facts, by name."""

    def build(self, path: Path, kind: type[Fold], **weights: Any) -> Any:
        """Return a fold of class `kind` with these weights.

        Raises
        ------
        FileError
            The weights don't make such a fold.
        """
        try:
            return kind(**weights, **self.origin)
        except (TypeError, ValueError) as error:
            raise FileError(f"{path}: not a usable encoder: {error}") from error


def read_fold_file(path: str | os.PathLike[str]) -> FoldFile:
    """Read a file that `Fold.save` wrote. Nothing in it is executed.

    Parameters
    ----------
    path : str or path
        The safetensors file.

    Returns
    -------
    FoldFile

    Raises
    ------
    FileError
        The file is missing, truncated, damaged, of another kind, or written by a later format version.
    """
    metadata, tensors = read_safetensors(Path(path))
    name = metadata.get("format", "")
    if not name.startswith("nearfold."):
        raise FileError(f"{path}: a safetensors file, but not a nearfold encoder; give one that `fit` wrote")
    if name == "nearfold.scan":
        raise other_kind(path, name, "a fold or a codec")
    version = metadata.get("format_version", "")
    if not _NUMBER.fullmatch(version) or int(version) > FORMAT_VERSION:
        raise FileError(
            f"{path}: encoder format version {version[:20] or 'missing'}, this nearfold reads up to "
            f"{FORMAT_VERSION}; upgrade nearfold"
        )
    for key, tensor in tensors.items():
        if tensor.dtype != np.float32 or not tensor.size:
            raise FileError(
                f"{path}: {key} is {tensor.dtype} of shape {tensor.shape}; an encoder holds float32"
            )
        if not np.isfinite(tensor).all():
            raise FileError(f"{path}: {key} holds NaN or infinity; an encoder has none: it is damaged")
    try:
        origin: dict[str, Any] = {
            "metric": check_metric(metadata["metric"]),
            "method": checked_name("method", metadata["method"]),
            "parameters": checked_parameters(_json_object(path, metadata["parameters"])),
            "facts": checked_facts(_json_object(path, metadata["facts"])),
        }
    except (KeyError, ParameterError) as error:
        raise FileError(f"{path}: not a usable encoder: {error}") from error
    return FoldFile(name, tensors, origin)


def _json_object(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    return checked_json(text, dict[str, Any], os.fspath(path), "give a file that `fit` wrote")


def fold_checksum(fold: Fold) -> str:
    """Return the SHA-256 of the file that a fold's `save` writes, in hexadecimal."""
    return hashlib.sha256(fold._content()).hexdigest()


def safetensors_bytes(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        The C-contiguous tensors by name.
    metadata : mapping of str to str
        The metadata.

    Returns
    -------
    bytes
        The same tensors and metadata give the same bytes.
    """
    from safetensors.numpy import save

    written = save(dict(tensors), dict(metadata))
    length = int.from_bytes(written[:8], "little")
    # The order of metadata in the library's output differs from run to run.
    header = json.dumps(json.loads(written[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + written[8 + length :]


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, without its tensors; see `read_safetensors`."""
    with _opened_safetensors(path) as (_, metadata, _):
        return metadata


@contextmanager
def _opened_safetensors(path: Path) -> Iterator[tuple[IO[bytes], dict[str, str], int]]:
    """Open a safetensors file, and yield it with its metadata and its size in bytes.

    The file is read and never mapped, so that truncation meanwhile is an error and doesn't end the process.
    """
    from safetensors import SafetensorError

    try:
        with open_regular(path) as file:
            yield file, *_safetensors_head(path, file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}") from error
    except (SafetensorError, TypeError, ValueError, KeyError, AttributeError, MemoryError) as error:
        raise FileError(f"{path}: truncated or not a safetensors file ({error})") from error


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Return the metadata and the tensors of a safetensors file; a digest by nearfold is verified.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    metadata : dict of str to str
        The metadata, empty if there is none.
    tensors : dict of str to ndarray
        The tensors by name.

    Raises
    ------
    FileError
        The file is missing, not a regular file, truncated or damaged, or has changed since nearfold wrote it.
    """
    from safetensors.numpy import load

    with _opened_safetensors(path) as (file, metadata, size):
        file.seek(0)
        tensors = load(file.read(size))
    # Files of earlier versions and of other programs have no digest by nearfold.
    sealed_by_us = metadata.get("format", "").startswith("nearfold.") and DIGEST in metadata
    if sealed_by_us and metadata[DIGEST] != content_digest(tensors, metadata):
        raise FileError(f"{path}: damaged: its content has changed since it was written; make it again")
    return metadata, tensors


def _safetensors_head(path: Path, file: IO[bytes], size: int) -> tuple[dict[str, str], int]:
    """Return the metadata and the size of a file, after a check that its header declares that size."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEAD):
        raise FileError(f"{path}: truncated or not a safetensors file (its header is not there)")
    try:
        head = msgspec.json.decode(file.read(length).rstrip(b" "), type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(head.pop("__metadata__", b"{}"), type=dict[str, str] | None)
        ends = [msgspec.json.decode(tensor, type=_TensorHead).data_offsets[1] for tensor in head.values()]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FileError(f"{path}: truncated or not a safetensors file ({error})") from error
    promised = 8 + length + max(ends, default=0)
    if promised != size:
        raise FileError(
            f"{path}: truncated or not a safetensors file (its header promises {promised} bytes, "
            f"it has {size})"
        )
    return metadata or {}, size
