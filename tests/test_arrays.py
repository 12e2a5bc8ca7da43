from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from nearfold._utils.arrays import as_rows, as_vectors, check_metric, normalize_rows, resolve_components
from nearfold.errors import DataError, DataTypeError, NearfoldError, ParameterError


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.full((3, 2), np.nan), "row 0, column 0"),
        (np.array([[0, 1], [2, np.inf]]), "row 1, column 1"),
        (np.array([[0, 1], [1e300, 0]]), "row 1, column 0"),
        ([[1, 2], [3]], "rows of one length"),
        (np.zeros((0, 3)), "0 sample"),
        (np.zeros((3, 0)), "0 feature"),
        (np.zeros(3), "Reshape your data"),
        (np.zeros((2, 2, 2)), "3D array"),
        (np.array([["a", "b"]]), "holds no numbers"),
        (np.array([[1 + 1j]]), "Complex data not supported"),
        (np.array([[{}, 1]], dtype=object), "not numbers"),
        (scipy.sparse.eye(3), "sparse"),
        (np.array([["2020-01-01"]], dtype="datetime64[D]"), "holds no numbers"),
    ],
)
def test_bad_vectors_are_refused(bad: object, says: str) -> None:
    with pytest.raises(NearfoldError, match=says):
        as_vectors(bad)


def test_not_numbers_is_a_type_error_too() -> None:
    with pytest.raises(TypeError):
        as_rows(np.array([[{}]], dtype=object))
    with pytest.raises(DataTypeError):
        as_rows(scipy.sparse.eye(3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int8, np.int64, bool])
def test_real_dtypes_are_taken(dtype: type) -> None:
    vectors = as_vectors(np.array([[1, 0, 1]], dtype=dtype))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[1, 0, 1]])


def test_float32_is_not_copied_and_may_be_read_only() -> None:
    X = np.ones((4, 3), np.float32)
    X.flags.writeable = False
    assert as_vectors(X) is X


def test_non_contiguous_is_made_contiguous() -> None:
    X = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    vectors = as_vectors(X)
    assert vectors.flags.c_contiguous
    np.testing.assert_array_equal(vectors, X)


def test_large_finite_values_pass_though_their_sum_overflows() -> None:
    X = np.full((1000, 10), 3e38, np.float32)
    assert as_vectors(X) is X


@given(st.integers(0, 999), st.integers(0, 4), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_bad_value_is_found_wherever_it_is(row: int, column: int, value: float) -> None:
    X = np.zeros((1000, 5), np.float32)
    X[row, column] = value
    with pytest.raises(DataError, match=f"row {row}, column {column}"):
        as_vectors(X)


def test_normalize_rows(rng: np.random.Generator) -> None:
    X = rng.standard_normal((5, 3)).astype(np.float32) * 1e-20
    np.testing.assert_allclose(np.linalg.norm(normalize_rows(X).astype(float), axis=1), 1, rtol=1e-6)
    X[3] = 0
    with pytest.raises(DataError, match="zero vector at row 3"):
        normalize_rows(X)


@pytest.mark.parametrize(
    ("asked", "m"), [(3, 3), ("3", 3), ("25%", 2), ("1%", 1), (" 50 % ", 4), (np.int64(2), 2)]
)
def test_components(asked: int | str, m: int) -> None:
    assert resolve_components(asked, 8) == m


@pytest.mark.parametrize("asked", [0, -1, 8, 9, "100%", "0", "x", "", "-5%", 2.5, True, None, "1e3%"])
def test_bad_components(asked: object) -> None:
    with pytest.raises(ParameterError, match="n_components"):
        resolve_components(asked, 8)  # type: ignore[arg-type]


def test_metric_is_checked() -> None:
    assert check_metric("l2") == "l2"
    with pytest.raises(ParameterError, match="cosine, l2, ip"):
        check_metric("euclid")


COLUMN = (np.arange(60, dtype=np.float32) + 1).reshape(12, 5)


def objects(rows: list[object]) -> np.ndarray:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


@pytest.mark.parametrize(
    "given",
    [
        pd.Series(list(COLUMN), index=range(5, 17)),
        pd.Series(COLUMN.tolist()),
        pd.DataFrame({"e": list(COLUMN)}),
        pd.DataFrame(COLUMN),
        objects(list(COLUMN)),
        objects(COLUMN.tolist()),
        pa.FixedSizeListArray.from_arrays(pa.array(COLUMN.ravel()), 5),
        pa.FixedSizeListArray.from_arrays(pa.array(np.tile(COLUMN, (2, 1)).ravel()), 5)[12:],
        pa.array(COLUMN.tolist(), pa.large_list(pa.float64())),
        pa.array(COLUMN.tolist(), pa.list_view(pa.float32())),
        pa.chunked_array([pa.array(COLUMN[:5].tolist()), pa.array(COLUMN[5:].tolist())]),
        pa.FixedShapeTensorArray.from_numpy_ndarray(COLUMN),
        pa.table({"e": pa.array(COLUMN.tolist())}),
        pa.table({f"d{i}": COLUMN[:, i] for i in range(5)}),
        pl.Series(COLUMN.tolist()),
        pl.Series(values=COLUMN),
        pl.DataFrame({"e": COLUMN}),
        pl.DataFrame(COLUMN),
    ],
    ids=lambda given: f"{type(given).__module__}.{type(given).__name__}",
)
def test_columns_of_vectors_are_taken(given: object) -> None:
    np.testing.assert_array_equal(as_vectors(given), COLUMN)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (pd.Series([[1.0, 2.0], None]), "no vector at row 1"),
        (pd.Series([[1.0, 2.0], [3.0]]), "row 1 has 1 dimensions where the first has 2"),
        (pa.array([[1.0, 2.0], [3.0], [1.0, 2.0, 3.0]]), "row 1 has 1"),
        (pa.array([[1.0, 2.0], None]), "no vector at row 1"),
        (pd.DataFrame({"id": [1, 2], "text": ["a", "b"]}), "column 'text' holds no numbers"),
        (pd.DataFrame({"id": [1, 2], "e": [[1.0], [2.0]]}), r"pass the column .* X\['e'\]"),
        (pl.DataFrame({"id": [1, 2], "e": [[1.0], [2.0]]}), r"X\['e'\]"),
        (pd.Series(["a", "b"]), "numbers"),
    ],
)
def test_columns_that_hold_no_vectors_are_refused(given: object, says: str) -> None:
    with pytest.raises(NearfoldError, match=says):
        as_vectors(given)
