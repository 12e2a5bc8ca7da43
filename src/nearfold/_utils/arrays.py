"""Checks of the arrays and parameters that users give; it needs numpy alone.

All other modules may rely on their arrays being two-dimensional, float32, C-contiguous and finite.
"""

from __future__ import annotations

import numbers
import re
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from nearfold.errors import DataError, DataTypeError, ParameterError

__all__ = [
    "METRICS",
    "Float32",
    "Float64",
    "Int64",
    "Metric",
    "as_rows",
    "as_vectors",
    "check_directions",
    "check_finite",
    "check_metric",
    "check_positive",
    "check_products",
    "check_row_count",
    "check_tiny",
    "check_width",
    "chunk_rows",
    "common_part",
    "largest_number",
    "normalize_rows",
    "resolve_components",
    "row_norms",
]

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]

Metric = Literal["cosine", "l2", "ip"]
# Bounds between which float32 holds a sum of squares at full precision.
_TINY_SQUARE, _HUGE_SQUARE = 1e-28, 1e36

# The least number whose square still has float32's full precision in sums over differences of near vectors.
_TINY = 1e-15

# Bounds between which float32 holds a norm, and divides by it, at full precision.
_TINY_NORM, _HUGE_NORM = 1e-35, 1e38

# If the mean holds more than this share of the energy, float32 inner products lose too many digits of the
# rest; and the number of rows from which that share is estimated.
_COMMON, _LOOKED_AT_ROWS = 0.999, 1024

METRICS: tuple[Metric, ...] = get_args(Metric)


def chunk_rows(n_features: int, nbytes: int = 4 << 20) -> int:
    """Return the number of float32 rows for a piece of work of about the given size.

    Parameters
    ----------
    n_features : int
        The number of dimensions of the rows.
    nbytes : int, default=4 MiB
        The size of a piece in bytes. Pieces of the default size stay in a core's cache between two passes.

    Returns
    -------
    int
        At least 256.
    """
    return max(256, nbytes // (4 * max(1, n_features)))


def check_metric(metric: str) -> Metric:
    """Return `metric` if it is one of METRICS.

    Raises
    ------
    ParameterError
        The metric is unknown.
    """
    for known in METRICS:
        if metric == known:
            return known
    raise ParameterError(f"metric={metric!r} is unknown; use one of {', '.join(METRICS)}")


def largest_number(X: npt.NDArray[Any]) -> float:
    """Return the largest magnitude in X: 0 if it is empty, NaN or infinity if it holds such a value."""
    return float(max(X.max(), -X.min())) if X.size else 0.0


def check_products(
    X: Float32, metric: Metric, name: str, *, rows: Int64 | None = None, alone: bool = True
) -> None:
    """Refuse vectors whose inner products or distances leave float32's range; cosine takes any vectors.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The vectors.
    metric : {"cosine", "l2", "ip"}
        The metric that they are compared by.
    name : str
        The name of the vectors in messages.
    rows : ndarray of shape (n,), int64, optional
        The row numbers in the user's data. The default is 0, 1, ...
    alone : bool, default=True
        Whether these are all the vectors that are compared. If not, they may be arbitrarily small.

    Raises
    ------
    DataError
        A number is too large, or all are too small and not all zero.
    """
    if metric == "cosine" or not X.size:
        return
    largest = largest_number(X)
    if largest**2 * X.shape[1] > float(np.finfo(np.float32).max) / 8:
        row = int(np.abs(X).max(axis=1).argmax())
        raise DataError(
            f"{name}: row {row if rows is None else int(rows[row])} has numbers of {largest:.0e}, whose "
            f"products are beyond float32; divide all vectors by a constant"
        )
    if alone and 0 < largest < _TINY:
        raise _tiny_error(name, largest)


def check_tiny(X: npt.NDArray[Any], metric: Metric, name: str) -> None:
    """Refuse vectors so small that their products vanish in float32; cosine takes any vectors.

    Usually the first rows suffice to pass, so that the check costs nothing.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        The vectors.
    metric : {"cosine", "l2", "ip"}
        The metric that they are compared by.
    name : str
        The name of the vectors in messages.

    Raises
    ------
    DataError
        All numbers are too small, and not all are zero.
    """
    if metric == "cosine" or not X.size:
        return
    largest, step = 0.0, chunk_rows(X.shape[1], 1 << 18)
    for start in range(0, len(X), step):
        largest = max(largest, largest_number(X[start : start + step]))
        # NaN passes here: check_finite reports it.
        if not largest < _TINY:
            return
    if largest:
        raise _tiny_error(name, largest)


def _tiny_error(name: str, largest: float) -> DataError:
    return DataError(
        f"{name}: has numbers of {largest:.0e} at most, so tiny that their products vanish in float32; "
        f"multiply all vectors by a constant"
    )


def common_part(X: Float32) -> Float32 | None:
    """Return the mean of vectors if it holds nearly all of their energy, else None.

    Until such a mean is subtracted, float32 resolves little of the differences between the vectors. The
    share of its energy is estimated from a sample of the rows.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The vectors.

    Returns
    -------
    ndarray of shape (d,), float32, or None
    """
    sample = X[:: max(1, len(X) // _LOOKED_AT_ROWS)]
    if len(sample) < 2:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sample.mean(axis=0, dtype=np.float64)
        energy = float(np.einsum("ij,ij->", sample, sample, dtype=np.float64)) / len(sample)
    # NaN passes here: check_finite reports it.
    return mean.astype(np.float32) if mean @ mean > _COMMON * energy else None


def check_positive(name: str, value: Any, *, integer: bool = True, zero: bool = False) -> None:
    """Refuse a parameter that is not a positive, or with `zero` a non-negative, finite number.

    Parameters
    ----------
    name : str
        The name of the parameter in messages.
    value : object
        The value to check.
    integer : bool, default=True
        Whether it must be a whole number.
    zero : bool, default=False
        Whether it may be 0.

    Raises
    ------
    ParameterError
        The value is not such a number.
    """
    kind: Any = numbers.Integral if integer else numbers.Real
    good = isinstance(value, kind) and type(value) is not bool and np.isfinite(float(value))
    if not good or value < 0 or (value == 0 and not zero):
        wanted = f"{'non-negative' if zero else 'positive'} {'integer' if integer else 'number'}"
        raise ParameterError(f"{name}={value!r} must be a {wanted}")


def check_width(name: str, found: int, wanted: int) -> None:
    """Refuse vectors that have another number of dimensions than a fold takes.

    Parameters
    ----------
    name : str
        The name of the vectors in messages.
    found, wanted : int
        The number of dimensions of the vectors, and that of the fold's input.

    Raises
    ------
    DataError
        The two numbers differ.
    """
    if found != wanted:
        raise DataError(
            f"{name}: has {found} dimensions, the encoder takes {wanted}; use the vectors it was fitted for"
        )


def as_rows(X: Any, name: str = "X") -> npt.NDArray[Any]:
    """Return `X` as a two-dimensional array of numbers, not copied if it is one already.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Anything that numpy makes an array of, of any real dtype; or a column of n vectors of one length: a
        Series of pandas or polars, an Arrow array, an object array, or a data frame with one such column
        or with one column for each dimension.
    name : str, default="X"
        The name of the vectors in messages.

    Returns
    -------
    ndarray of shape (n, d)
        The numbers in the dtype they came in.

    Raises
    ------
    DataError, DataTypeError
        `X` is ragged, sparse, complex, not numeric, not two-dimensional, or has no features.
    """
    if hasattr(X, "tocsr"):
        raise DataTypeError(f"{name} is a sparse matrix; nearfold needs dense vectors: pass {name}.toarray()")
    try:
        array = _stacked(_as_array(X, name), name)
    except TypeError as error:
        raise DataTypeError(f"{name} has entries that are not numbers: {error}") from error
    except ValueError as error:
        raise DataError(f"{name} is not a table of numbers with rows of one length: {error}") from error
    if array.dtype.kind == "c":
        raise DataTypeError(f"Complex data not supported: {name} has dtype {array.dtype}; pass real vectors")
    if array.dtype.kind not in "fiub":
        raise DataTypeError(f"{name} has dtype {array.dtype}, which holds no numbers; pass real vectors")
    if array.ndim != 2:
        raise DataError(
            f"Expected 2D array (rows, dimensions), got {array.ndim}D array instead: {name} has shape "
            f"{array.shape}. Reshape your data with array.reshape(1, -1) if it is a single vector."
        )
    if array.shape[1] == 0:
        raise DataError(
            f"{name} has 0 feature(s) (shape={array.shape}) while a minimum of 1 is required: no dimensions"
        )
    return array


def _as_array(X: Any, name: str) -> npt.NDArray[Any]:
    """Return `X` as a numpy array; frames, Arrow arrays and tensors are converted by their own methods."""
    columns = getattr(X, "columns", None)
    if columns is None:
        columns = getattr(X, "column_names", None)
    if columns is not None and not callable(columns) and hasattr(X, "__getitem__"):
        X = _of_frame(X, columns, name)
    if hasattr(X, "combine_chunks"):
        X = X.combine_chunks()
        # Before pyarrow 17, combine_chunks returns a chunked array again if there are no chunks.
        X = X.to_numpy() if hasattr(X, "chunks") else X
    if hasattr(X, "storage") and hasattr(X, "type"):
        X = X.storage
    if hasattr(X, "flatten") and hasattr(X, "null_count") and hasattr(X, "type"):
        return _of_lists(X, name)
    if hasattr(X, "detach") and hasattr(X, "cpu"):
        # numpy refuses a tensor that requires gradients, and does not know bfloat16.
        X = X.detach().cpu()
        X = X.float() if "bfloat16" in str(X.dtype) else X
    return np.asarray(X)


def _of_lists(array: Any, name: str) -> npt.NDArray[Any]:
    """Return an Arrow array as a numpy array, two-dimensional if it holds lists of one length."""
    if array.null_count:
        missing = np.asarray(array.is_null().to_numpy(zero_copy_only=False), bool)
        raise DataError(
            f"{name} has no vector at row {int(np.flatnonzero(missing)[0])} (null); remove such rows"
        )
    if "list" not in str(array.type).split("<", maxsplit=1)[0]:
        return np.asarray(array.to_numpy(zero_copy_only=False))
    flat = array.flatten()
    if flat.null_count or len(flat) % max(1, len(array)):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    width = len(flat) // max(1, len(array))
    lengths = {len(one) for one in array} if not hasattr(array.type, "list_size") else {width}
    if lengths != {width}:
        return np.asarray(array.to_numpy(zero_copy_only=False))
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(array), width)


def _of_frame(frame: Any, columns: Any, name: str) -> Any:
    """Return the only column of a frame, or the frame itself if all of its columns hold numbers."""
    names = list(columns) if not hasattr(frame, "column_names") else list(frame.column_names)
    first = [frame[each] for each in names[:_LOOKED_AT]]
    odd = [label for label, column in zip(names, first, strict=False) if not _is_numeric(column)]
    if len(names) == 1 and odd:
        return first[0]
    if odd:
        raise DataTypeError(
            f"{name} is a frame whose column {odd[0]!r} holds no numbers; pass the column of the vectors "
            f"alone, {name}[{odd[0]!r}] say, or those of the dimensions"
        )
    if hasattr(frame, "column_names"):
        return np.column_stack([np.asarray(frame[each]) for each in names])
    return frame


# The number of columns of a frame whose types are checked.
_LOOKED_AT = 100_000


def _is_numeric(column: Any) -> bool:
    """Return whether a column of a frame holds one number in each row."""
    kind = str(getattr(column, "dtype", getattr(column, "type", ""))).lower()
    return kind.startswith(("int", "uint", "float", "double", "halffloat", "bool", "complex", "decimal"))


def _stacked(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return an object array of vectors of one length as a two-dimensional array; others as they are."""
    if array.dtype.kind != "O":
        return array
    if (
        array.ndim != 1
        or not len(array)
        or not hasattr(array[0], "__len__")
        or isinstance(array[0], str | dict)
    ):
        return array.astype(np.float64)
    lengths = [len(row) if hasattr(row, "__len__") else -1 for row in array]
    for row, length in enumerate(lengths):
        if length < 0:
            raise DataError(f"{name} has no vector at row {row} ({array[row]!r}); remove such rows")
        if length != lengths[0]:
            raise DataError(
                f"{name} is not a table of numbers with rows of one length: row {row} has {length} "
                f"dimensions where the first has {lengths[0]}"
            )
    stacked = np.stack([np.asarray(row) for row in array])
    return stacked.astype(np.float64) if stacked.dtype.kind == "O" else stacked


def as_vectors(X: Any, name: str = "X", *, min_rows: int = 1, finite: bool = True) -> Float32:
    """Return `X` as finite, C-contiguous float32 vectors, not copied if it holds such already.

    Parameters
    ----------
    X : array-like of shape (n, d)
        The vectors, as for `as_rows`.
    name : str, default="X"
        The name of the vectors in messages.
    min_rows : int, default=1
        The least number of rows.
    finite : bool, default=True
        Whether to check for NaN and infinity. If not, the caller must check in its own pass over the data,
        as `Moments` does at no cost.

    Returns
    -------
    ndarray of shape (n, d), float32
        The vectors, possibly the array that was given, and possibly read-only.

    Raises
    ------
    DataError, DataTypeError
        `X` is refused by `as_rows`, holds NaN, infinity or a number beyond float32, or has fewer than
        `min_rows` rows.
    """
    array = as_rows(X, name)
    check_row_count(array.shape[0], min_rows, name)
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.itemsize > 4:
        _check_vanished(array, vectors, name)
    if finite:
        check_finite(vectors, name)
    return vectors


def _check_vanished(array: npt.NDArray[Any], vectors: Float32, name: str) -> None:
    """Refuse an array whose numbers all become zero in float32; usually the first rows suffice to pass."""
    step = chunk_rows(array.shape[1], 1 << 18)
    if any(vectors[start : start + step].any() for start in range(0, len(vectors), step)):
        return
    if (largest := largest_number(array)) > 0:
        raise DataError(
            f"{name}: has numbers of {largest:.0e} at most, too tiny for float32; multiply all vectors by a "
            f"constant"
        )


def check_row_count(rows: int, min_rows: int, name: str = "X") -> None:
    """Refuse data that has fewer than `min_rows` rows.

    Raises
    ------
    DataError
        There are too few rows; the message begins with `name`.
    """
    if rows < min_rows:
        raise DataError(
            f"{name} has {rows} sample(s) (n_samples = {rows}) while a minimum of {min_rows} is required; "
            f"give more rows"
        )


def check_finite(X: npt.NDArray[Any], name: str = "X", first_row: int = 0) -> None:
    """Refuse rows that hold NaN or infinity.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        The rows.
    name : str, default="X"
        The name of the data in messages.
    first_row : int, default=0
        The number of the first row in messages.

    Raises
    ------
    DataError
        A row is not finite; the message names the first such row.
    """
    step = chunk_rows(X.shape[1])
    for start in range(0, len(X), step):
        chunk = X[start : start + step]
        # A finite sum proves that every term is finite, in one pass without a temporary. An infinite
        # sum may also come from an overflow, so each number is then checked.
        with np.errstate(over="ignore", invalid="ignore"):
            total = chunk.sum()
        if np.isfinite(total):
            continue
        bad = np.argwhere(~np.isfinite(chunk))
        if len(bad):
            row, column = (int(i) for i in bad[0])
            raise DataError(
                f"{name} holds NaN, inf or a number beyond float32: row {first_row + start + row}, "
                f"column {column}; remove or replace such rows"
            )


def row_norms(X: Float32) -> Float32:
    """Return the Euclidean norm of each row of X (n, d), shape (n,), as float32."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares: Float32 = np.einsum("ij,ij->i", X, X)
    norms = np.sqrt(squares)
    # Squares leave float32's range long before the numbers do. Such rows are rare.
    doubtful = np.flatnonzero(~((squares > _TINY_SQUARE) & (squares < _HUGE_SQUARE)))
    if len(doubtful):
        rows = X[doubtful].astype(np.float64)
        with np.errstate(over="ignore"):
            norms[doubtful] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms


def normalize_rows(
    X: Float32, name: str = "X", *, keep_zero: bool = False, first_row: int = 0, out: Float32 | None = None
) -> Float32:
    """Return the rows of `X` scaled to norm 1, as cosine compares them.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The rows.
    name : str, default="X"
        The name of the rows in messages.
    keep_zero : bool, default=False
        Whether a zero row stays zero instead of being refused, as a fold may map a vector to zero.
    first_row : int, default=0
        The number of the first row in messages.
    out : ndarray of shape (n, d), float32, optional
        The array to write the result to. By default a new one is made.

    Returns
    -------
    ndarray of shape (n, d), float32
        The scaled rows. Rows that are not finite become NaN.

    Raises
    ------
    DataError
        A row is zero, so that its cosine similarity is not defined.
    """
    norms = row_norms(X)
    if len(zero := np.flatnonzero(norms == 0)):
        if not keep_zero:
            raise DataError(
                f"{name} has a zero vector at row {first_row + zero[0]}, which has no cosine to anything; "
                f"remove such rows or use metric='l2' or 'ip'"
            )
        norms[zero] = 1
    # Rows whose norms lie near the ends of float32's range or beyond are rare, and are scaled in float64.
    odd = np.flatnonzero(~((norms > _TINY_NORM) & (norms < _HUGE_NORM)))
    rows = X[odd].astype(np.float64)
    # Rows that are not finite become NaN, which the caller must check for.
    with np.errstate(invalid="ignore"):
        scaled: Float32 = np.divide(X, norms[:, None], out=out)
        if len(odd):
            scaled[odd] = rows / np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return scaled


def check_directions(vectors: Float32, name: str, first_row: int = 0) -> None:
    """Refuse vectors among which a row is zero, as its cosine similarity is not defined.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
        The vectors.
    name : str
        The name of the vectors in messages.
    first_row : int, default=0
        The number of the first row in messages.

    Raises
    ------
    DataError
        A row is zero; the message names the first such row.
    """
    if len(zero := np.flatnonzero(~vectors.any(axis=1))):
        row = int(zero[0])
        normalize_rows(vectors[row : row + 1], name, first_row=first_row + row)


def resolve_components(n_components: int | str, n_features: int) -> int:
    """Return the number of reduced dimensions m for data of `n_features` dimensions.

    Parameters
    ----------
    n_components : int or str
        The number of dimensions, or a share of them such as "25%", which is rounded to at least 1.
    n_features : int
        The number of dimensions d of the data.

    Returns
    -------
    int

    Raises
    ------
    ParameterError
        `n_components` is neither, or m is not from 1 to d - 1.
    """
    if isinstance(n_components, str):
        if n_components.strip().isdigit():
            components = int(n_components)
        else:
            match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", n_components)
            if match is None:
                raise ParameterError(
                    f"n_components={n_components!r} must be a whole number or a share like '25%'"
                )
            components = max(1, round(float(match[1]) * n_features / 100))
    else:
        check_positive("n_components", n_components)
        components = int(n_components)
    if not 1 <= components < n_features:
        raise ParameterError(
            f"n_components={n_components!r} asks for {components} of {n_features} feature(s); "
            f"choose at least 1 and fewer than the n_features = {n_features} dimensions of the data"
        )
    return components
