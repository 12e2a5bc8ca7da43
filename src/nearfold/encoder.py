"""The encoder: the linear map that a fold is, as a small immutable value.

Applying one needs numpy alone; reading and writing one needs safetensors.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric, as_rows, check_finite, check_metric, chunk_rows
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.files import cause, replacing

__all__ = ["FORMAT_VERSION", "Encoder"]

FORMAT_VERSION = 1
_FORMAT = "nearfold.encoder"
# Rows folded at a time: enough for a matrix product to reach full speed.
_CHUNK_BYTES = 32 << 20
_OUTPUT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16))


@dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """A linear map z = W x + b from d to m dimensions, and where it came from.

    Parameters
    ----------
    weight
        W, shape (m, d), float32, finite.
    bias
        b, shape (m,), float32; None for none.
    metric
        The metric that folded vectors are meant to be searched with: "cosine", "l2" or "ip".
    method
        The name of the method that learned it, such as "nearfold".
    parameters
        That method's parameters; anything JSON can hold.
    facts
        What training saw and found (rows, loss, ...); anything JSON can hold.

    Raises
    ------
    DataError, ParameterError
        The shapes don't fit, a value is not finite, the metric is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> encoder = Encoder(np.eye(2, 3, dtype=np.float32), metric="l2")
    >>> encoder.transform([[1, 2, 3]])
    array([[1., 2.]], dtype=float32)
    """

    weight: Float32
    bias: Float32 | None = None
    metric: Metric = "cosine"
    method: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight = _frozen(as_rows(self.weight, "weight"), "weight")
        bias = None if self.bias is None else _frozen(np.asarray(self.bias)[None, :], "bias")[0]
        if bias is not None and bias.shape != (len(weight),):
            raise DataError(
                f"bias has shape {bias.shape}; a weight of shape {weight.shape} needs ({len(weight)},)"
            )
        set_ = object.__setattr__
        set_(self, "weight", weight)
        set_(self, "bias", bias)
        set_(self, "metric", check_metric(self.metric))
        set_(self, "parameters", MappingProxyType(copy.deepcopy(dict(self.parameters))))
        set_(self, "facts", MappingProxyType(copy.deepcopy(dict(self.facts))))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy can't be pickled; rebuild from plain values.
        values = (self.weight, self.bias, self.metric, self.method, dict(self.parameters), dict(self.facts))
        return type(self), values

    def __repr__(self) -> str:
        return f"Encoder({self.method or 'linear'}, {self.n_features} -> {self.n_components}, {self.metric})"

    @property
    def n_components(self) -> int:
        """The number m of reduced dimensions."""
        return int(self.weight.shape[0])

    @property
    def n_features(self) -> int:
        """The number d of dimensions that it takes."""
        return int(self.weight.shape[1])

    def transform(self, X: npt.ArrayLike, *, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Fold vectors.

        Beyond the input and the result, memory is bounded by a few megabytes: a memory-mapped
        array of any size can be passed.

        Parameters
        ----------
        X
            Shape (n, d), any real dtype (float32, float16, float64, uint8, int8, ...).
        dtype
            Of the result: float32, float16 or float64. The arithmetic is float32, or float64
            where X is.

        Returns
        -------
        ndarray of shape (n, m).

        Raises
        ------
        DataError
            Not two-dimensional, not d wide, or a row is not finite or leaves the range of `dtype`.
        ParameterError
            `dtype` is none of the three.
        """
        rows = as_rows(X)
        if rows.shape[1] != self.n_features:
            raise DataError(
                f"X has {rows.shape[1]} features, but Encoder is expecting {self.n_features} features "
                f"as input; give vectors of the kind it was fitted on"
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
        weight = self.weight.astype(arithmetic, copy=False)
        step = chunk_rows(self.n_features, _CHUNK_BYTES)
        for start in range(0, len(rows), step):
            self._fold(rows[start : start + step], weight, out[start : start + step], start)
        return out

    def _fold(
        self, rows: npt.NDArray[Any], weight: npt.NDArray[Any], out: npt.NDArray[Any], first_row: int
    ) -> None:
        """Write the fold of one chunk, in the arithmetic of `weight`, into `out`."""
        with np.errstate(over="ignore", invalid="ignore"):
            vectors = rows.astype(weight.dtype, copy=False)
            direct = out.dtype == weight.dtype
            folded = np.matmul(vectors, weight.T, out=out if direct else None)
            if self.bias is not None:
                folded += self.bias
            if not direct:
                out[...] = folded
            # NaN and infinity survive a matrix product (0 * inf is NaN), so the m columns of
            # the result tell what a look at the d columns of the input would; and finite sums
            # prove every term finite, at the speed of BLAS.
            summable = out.astype(np.float32) if out.dtype == np.float16 else out
            sums = np.ones(len(out), summable.dtype) @ summable
        if not np.isfinite(sums).all() and not np.isfinite(out).all():
            check_finite(vectors, "X", first_row)
            bad = first_row + int(np.flatnonzero(~np.isfinite(out).all(axis=1))[0])
            raise DataError(f"row {bad} of X folds to numbers beyond {out.dtype}; scale the vectors down")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a safetensors file, atomically.

        Raises
        ------
        FileError
            The file can't be written.
        """
        from safetensors.numpy import save

        tensors = {"weight": self.weight}
        if self.bias is not None:
            tensors["bias"] = self.bias
        metadata = {
            "format": _FORMAT,
            "format_version": str(FORMAT_VERSION),
            "metric": self.metric,
            "method": self.method,
            "parameters": json.dumps(dict(self.parameters), sort_keys=True),
            "facts": json.dumps(dict(self.facts), sort_keys=True),
        }
        with replacing(path) as file:
            file.write(save(tensors, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Encoder:
        """Read what `save` wrote; nothing in the file is executed.

        Raises
        ------
        FileError
            Missing, truncated, corrupt, not an encoder, or written by a later format version.
        """
        metadata, tensors = _read_safetensors(Path(path))
        if metadata.get("format") != _FORMAT:
            raise FileError(
                f"{path}: a safetensors file, but not a nearfold encoder; give one that `fit` wrote"
            )
        version = metadata.get("format_version", "")
        if not version.isdigit() or int(version) > FORMAT_VERSION:
            raise FileError(
                f"{path}: encoder format version {version or 'missing'}, this nearfold reads up to "
                f"{FORMAT_VERSION}; upgrade nearfold"
            )
        if not {"weight"} <= tensors.keys() <= {"weight", "bias"}:
            raise FileError(f"{path}: holds tensors {sorted(tensors)}, an encoder has weight and maybe bias")
        for name, rank in (("weight", 2), ("bias", 1)):
            tensor = tensors.get(name)
            if tensor is not None and (tensor.ndim != rank or tensor.dtype != np.float32 or not tensor.size):
                raise FileError(
                    f"{path}: {name} is {tensor.dtype} of shape {tensor.shape}; "
                    f"an encoder has it in float32 of rank {rank}"
                )
        try:
            parameters, facts = (json.loads(metadata[key]) for key in ("parameters", "facts"))
            if not isinstance(parameters, dict) or not isinstance(facts, dict):
                raise TypeError("parameters and facts must be JSON objects")  # noqa: TRY301
            return cls(
                weight=tensors["weight"],
                bias=tensors.get("bias"),
                metric=cast(Metric, metadata["metric"]),
                method=metadata["method"],
                parameters=parameters,
                facts=facts,
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FileError(f"{path}: not a usable encoder: {error}") from error


def _frozen(array: npt.NDArray[Any], name: str) -> Float32:
    """Return a float32 copy of `array` that nobody can write to."""
    copied = np.array(array, dtype=np.float32, order="C")
    check_finite(copied, name)
    copied.flags.writeable = False
    return copied


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Return the metadata and tensors of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        # safe_open reports a missing file with no path in the message, and maps folders badly.
        with path.open("rb"):
            pass
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {}), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}") from error
    except (SafetensorError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise FileError(f"{path}: truncated or not a safetensors file ({error})") from error
