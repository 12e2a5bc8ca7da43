"""Base classes of the estimators, which put scikit-learn's conventions around one fold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from nearfold._utils.arrays import (
    Float32,
    Metric,
    as_rows,
    as_vectors,
    check_finite,
    check_metric,
    check_tiny,
    resolve_components,
)
from nearfold._utils.sampling import fingerprint_of, fingerprint_rows
from nearfold.errors import DataError, ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.io.base import Source
from nearfold.io.held import held_rows
from nearfold.scan.scan import ScanSpec

__all__ = [
    "AnyFold",
    "FoldEstimator",
    "LinearFold",
    "check_graph_neighbors",
    "check_rows_for_components",
    "sample_rows",
]


AnyFold = TypeVar("AnyFold", bound=Fold)

# Singular values of a float32 weight below this share of the largest are what rounding leaves of zero.
_DEAD = 1e-6


class FoldEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of the estimators; the result of each is one `Fold`.

    A subclass learns in `_learn`; everything about names, checks and applying is here.

    Attributes
    ----------
    encoder_ : Fold
        The learned fold.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    """

    n_components: int | str
    metric: Metric

    encoder_: Fold
    n_features_in_: int

    @property
    def learns_metric(self) -> bool:
        """Whether `metric` changes what is learned; where not, one fit serves every metric."""
        return False

    def scan_spec(self, rows: int, n_components: int) -> ScanSpec | None:  # noqa: ARG002
        """Return what to scan so many rows for, or None where the rows themselves are needed.

        Methods that return a request can learn from files of any size; see `ScanFold`.

        Parameters
        ----------
        rows : int
            Number of rows that will be learned from.
        n_components : int
            Number m of reduced dimensions.

        Returns
        -------
        ScanSpec or None

        Raises
        ------
        ParameterError
            A parameter is out of range for so many rows.
        """
        return None

    def fit(self, X: Any, y: object = None) -> Self:  # noqa: ARG002
        """Learn the fold.

        Parameters
        ----------
        X : array-like, path, URL or Source
            The vectors, shape (n, d), of any real dtype: an array, a frame of pandas or polars, a column of
            vectors; or the name of a file, a folder of files or a URL, or what `open_source` made of one.
            They are computed with in float32. This method holds them in memory: of files that need more
            than the memory budget a sample is drawn, and a warning says so.
        y : object, default=None
            Ignored; present because pipelines of scikit-learn pass it.

        Returns
        -------
        self : estimator
            With `encoder_`.

        Raises
        ------
        DataError
            X is not a finite table of vectors, or has too few rows for the parameters.
        ParameterError
            A parameter is out of range for this data.
        FileError
            A file can't be read.

        Warns
        -----
        NearfoldWarning
            A sample stands for the rows of a file.
        """
        vectors = self._checked(X)
        fold = self._learn(vectors, resolve_components(self.n_components, vectors.shape[1]))
        marks = vectors[fingerprint_rows(len(vectors))]
        self.encoder_ = fold.with_facts(fingerprint=fingerprint_of(marks, len(vectors)))
        return self

    def transform(self, X: npt.ArrayLike) -> Float32:
        """Fold vectors to m dimensions.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Vectors of any real dtype.

        Returns
        -------
        ndarray of shape (n, m), float32

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        DataError
            X is not a finite table of vectors d wide.
        """
        check_is_fitted(self)
        rows = as_rows(X)
        if len(rows) == 0:
            raise DataError(f"X has 0 sample(s) (shape={rows.shape}) while a minimum of 1 is required")
        if rows.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        validate_data(self, X, reset=False, skip_check_array=True)
        folded: Float32 = self.encoder_.transform(rows)
        return folded

    def _checked(self, X: Any) -> Float32:
        """Return X as vectors in memory, and note its width and column names as scikit-learn does.

        Whether those of an array are finite is left to `_learn`, whose moments see every value anyway.
        """
        metric = check_metric(self.metric)
        if isinstance(X, str | os.PathLike | Source):
            seed = self.get_params(deep=False).get("random_state")
            drawn = seed if isinstance(seed, int) else 0
            zeros: Any = "sampled" if metric == "cosine" else False
            vectors = held_rows(X, seed=drawn, directions=zeros, min_rows=2)
            self._noted(vectors)
        else:
            vectors = as_vectors(X, min_rows=2, finite=False)
            self._noted(X)
        check_tiny(vectors, metric, "X")
        return vectors

    def _noted(self, X: Any) -> None:
        """Note the width and the column names of X as scikit-learn does."""
        validate_data(self, X, skip_check_array=True)

    def _learn(self, X: Float32, n_components: int) -> Fold:
        """Return the fold learned from X, or refuse X where a row is not finite."""
        raise NotImplementedError

    def _origin(self, **facts: Any) -> dict[str, Any]:
        """Return method, parameters and facts as a fold holds them."""
        parameters = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        return {
            "method": self._method_name,
            "parameters": parameters,
            "facts": {name: _plain(value) for name, value in facts.items()},
        }

    @property
    def _method_name(self) -> str:
        raise NotImplementedError

    @property
    def n_components_(self) -> int:
        """Number m of reduced dimensions."""
        return self.encoder_.n_components

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class LinearFold(FoldEstimator):
    """Base of the estimators whose result is one linear `Encoder`.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold.
    components_ : ndarray of shape (m, d), float32
        Weight of the encoder: reduced dimension i of a vector is its inner product with row i, plus the
        encoder's bias where it has one.
    mean_ : ndarray of shape (d,), float64, or None
        Mean of the rows, where the estimator centres; other estimators do not have the attribute.
    """

    encoder_: Encoder
    mean_: npt.NDArray[np.float64] | None

    @property
    def components_(self) -> Float32:
        """Weight of the encoder, shape (m, d), float32."""
        return self.encoder_.weight

    def inverse_transform(self, X: npt.ArrayLike) -> Float32:
        """Return the vectors of least norm, about the mean where there is one, that fold to these.

        The encoder's pseudo-inverse leads back, which for orthonormal components is their transpose. What
        lies outside of the span of the components is lost.

        Parameters
        ----------
        X : array-like of shape (n, m)
            Folded vectors of any real dtype; the arithmetic is float64.

        Returns
        -------
        ndarray of shape (n, d), float32

        Raises
        ------
        sklearn.exceptions.NotFittedError
            The estimator is not fitted.
        DataError
            X is not a finite table of vectors with m columns.
        """
        check_is_fitted(self)
        folded = as_rows(X).astype(np.float64)
        if folded.shape[1] != self.n_components_:
            raise DataError(
                f"X has {folded.shape[1]} reduced dimensions, but {type(self).__name__} folds to "
                f"{self.n_components_}"
            )
        check_finite(folded)
        weight = self.components_.astype(np.float64)
        bias, mean = self.encoder_.bias, getattr(self, "mean_", None)
        if mean is None and bias is not None:
            folded -= bias
        vectors = folded @ np.linalg.pinv(weight, rcond=_DEAD).T
        # The bias of an estimator that centres moves the mean to zero: zero leads back to the mean.
        return (vectors if mean is None else vectors + mean).astype(np.float32)

    def _encoder(
        self, weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None = None, **facts: Any
    ) -> Encoder:
        """Make the encoder that this estimator's parameters and `facts` describe."""
        return Encoder(
            weight=weight.astype(np.float32),
            bias=None if bias is None else bias.astype(np.float32),
            metric=self.metric,
            **self._origin(**facts),
        )


def check_rows_for_components(rows: int, n_components: int) -> None:
    """Refuse data whose rows can't span the reduced dimensions.

    Parameters
    ----------
    rows, n_components : int
        Number of rows and of reduced dimensions.

    Raises
    ------
    ParameterError
        There are fewer rows than reduced dimensions.
    """
    if rows < n_components:
        raise ParameterError(
            f"n_components={n_components} needs at least as many rows, X has {rows} sample(s) "
            f"(n_samples = {rows}); give more rows or ask for fewer dimensions"
        )


def check_graph_neighbors(n_neighbors: int, rows: int) -> None:
    """Refuse a neighbour graph in which rows have fewer others than neighbours are asked for.

    Parameters
    ----------
    n_neighbors, rows : int
        Number of neighbours of a row, and of rows.

    Raises
    ------
    ParameterError
        There are not more rows than neighbours.
    """
    if n_neighbors >= rows:
        raise ParameterError(
            f"n_neighbors={n_neighbors} needs more rows: the graph has {rows} sample(s) (n_samples = {rows})"
        )


def sample_rows(X: Float32, max_rows: int, rng: np.random.RandomState | np.random.Generator) -> Float32:
    """Return X, or some of its rows drawn at random and kept in their order.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        All rows.
    max_rows : int
        Number of rows to return at most.
    rng : RandomState or Generator
        Draws the rows.

    Returns
    -------
    ndarray of shape (min(n, max_rows), d), float32
    """
    if len(X) <= max_rows:
        return X
    return X[np.sort(rng.choice(len(X), int(max_rows), replace=False))]


def _plain(value: Any) -> Any:
    """Return `value` as JSON would hold it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
