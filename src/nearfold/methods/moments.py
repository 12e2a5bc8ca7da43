"""Methods that learn from first and second moments alone, and so batch by batch too."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Self

from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from nearfold._utils.arrays import Float32, check_tiny, resolve_components
from nearfold.errors import DataError
from nearfold.folds.encoder import Encoder
from nearfold.io.base import Source
from nearfold.io.vectors import as_source, checked_chunks
from nearfold.methods.base import check_rows_for_components
from nearfold.methods.scanned import ScanFold
from nearfold.scan.moments import Moments, Precision
from nearfold.scan.scan import Anchors, Scan, ScanSpec

__all__ = ["MomentFold"]


def _moments_suffice(estimator: MomentFold) -> bool:
    return estimator._learns_from_moments()


class MomentFold(ScanFold):
    """Base of the estimators that learn from the number, the sum and the outer products of rows.

    The moments of batches add up to those of all rows, so these estimators have `partial_fit`. A subclass
    learns in `_learn_from_moments` and says in `_products` how precisely the rows are multiplied.

    Attributes
    ----------
    n_samples_seen_ : int
        Number of rows that `fit`, or all calls of `partial_fit` together, have seen.
    """

    n_samples_seen_: int

    # What has been counted: a later `partial_fit` adds to it.
    _moments: Moments | None = None

    @property
    @abstractmethod
    def _products(self) -> Precision:
        """The precision in which rows are multiplied; see `Moments.stream`."""

    @abstractmethod
    def _learn_from_moments(self, moments: Moments, n_components: int) -> Encoder:
        """Return the encoder that the moments of the rows lead to."""

    def _learns_from_moments(self) -> bool:
        """Return whether the parameters leave the moments enough to learn from."""
        return True

    def scan_spec(self, rows: int, n_components: int) -> ScanSpec | None:
        """Return what to scan for, which is moments alone.

        Parameters
        ----------
        rows : int
            Number of rows that will be learned from.
        n_components : int
            Number m of reduced dimensions.

        Returns
        -------
        ScanSpec or None
            None where the parameters ask for the rows themselves.

        Raises
        ------
        ParameterError
            There are fewer rows than reduced dimensions.
        """
        check_rows_for_components(rows, n_components)
        return ScanSpec(self.metric, normalize=False, products=self._products)

    def learn_from_scan(
        self,
        scan: Scan,
        anchors: Anchors | None,  # noqa: ARG002
        n_components: int,
        request: ScanSpec,  # noqa: ARG002
    ) -> Encoder:
        """Return the encoder that the moments of a scan lead to, and note what else was learned.

        Parameters
        ----------
        scan : Scan
            Result of a scan for `scan_spec`.
        anchors : Anchors or None
            Ignored: moments need none.
        n_components : int
            Number m of reduced dimensions.
        request : ScanSpec
            Ignored.

        Returns
        -------
        Encoder
        """
        return self._learn_and_count(scan.moments, n_components)

    @available_if(_moments_suffice)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: object = None) -> Self:  # noqa: ARG002
        """Add a batch of rows to those seen before, and learn from all of them.

        The result is that of one `fit` to all rows, but for rounding, whatever the batches and their order.
        Each call decomposes the moments, which takes as long for a small batch as for a large one. `fit`
        forgets all earlier rows.

        Parameters
        ----------
        X : array-like of shape (n, d), path, URL or Source
            Batch of vectors of any real dtype. The first batch has at least as many rows as there are reduced
            dimensions; a later one may be a single row. Files are read in chunks.
        y : None
            Ignored; present by scikit-learn's convention.

        Returns
        -------
        self : estimator
            The estimator itself, with `encoder_` learned from all rows seen.

        Raises
        ------
        DataError
            X is not a finite table of vectors, or is not as wide as the earlier batches. The batch is not
            counted then.
        ParameterError
            A parameter is out of range, or there are fewer rows than reduced dimensions.
        """
        seen, source = self._moments, as_source(X)
        rows, n_features = source.layout.rows, source.layout.n_features
        if seen is not None and n_features != seen.n_features:
            raise DataError(
                f"X has {n_features} features, but {type(self).__name__} is expecting "
                f"{seen.n_features} features as input"
            )
        n_components = resolve_components(self.n_components, n_features)
        self.scan_spec(rows + (0 if seen is None else seen.count), n_components)
        if isinstance(X, str | os.PathLike | Source):
            self.n_features_in_ = n_features
        else:
            validate_data(self, X, reset=seen is None, skip_check_array=True)
        moments = Moments.stream(self._batches(source), products=self._products)
        self.encoder_ = self._learn_and_count(moments if seen is None else seen + moments, n_components)
        return self

    def _batches(self, source: Source) -> Iterator[Float32]:
        for chunk in checked_chunks(source, others=False):
            check_tiny(chunk.vectors, self.metric, source.path)
            yield chunk.vectors

    def _learn_and_count(self, moments: Moments, n_components: int) -> Encoder:
        encoder = self._learn_from_moments(moments, n_components)
        self._moments, self.n_samples_seen_ = moments, moments.count
        return encoder
