"""Methods that learn from what one scan gives, and so from data of any size."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Any, Self

import numpy as np

from nearfold._utils.arrays import Float32, check_metric, check_tiny, resolve_components
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.io.base import Source
from nearfold.io.npy import HeldSource
from nearfold.io.vectors import as_source
from nearfold.methods.base import LinearFold
from nearfold.scan.scan import Anchors, Scan, ScanSpec
from nearfold.scan.scanning import scan_source

__all__ = ["ScanFold"]


class ScanFold(LinearFold):
    """Base of the estimators that say what to scan for and learn from what is found.

    One reading of the data is all they need, whatever its size, on this machine or on a cluster.
    """

    def fit(self, X: Any, y: object = None, *, checkpoint: str | os.PathLike[str] | None = None) -> Self:  # noqa: ARG002
        """Learn the encoder from one scan of the data, in bounded memory.

        Parameters
        ----------
        X : array-like, path, URL or Source
            The vectors, shape (n, d), of any real dtype: an array, a frame of pandas or polars, a column of
            vectors; or the name of a file, a folder of files or a URL, or what `open_source` made of one.
            They are computed with in float32.
        y : object, default=None
            Ignored; present because codecs of scikit-learn pass it.
        checkpoint : path, optional
            A file that holds the scan as it goes. An interrupted fit is resumed from it, and `update` adds
            new rows to a finished one. By default nothing is kept.

        Returns
        -------
        self : estimator
            With `encoder_`.

        Raises
        ------
        DataError
            A row is not finite, or zero under cosine, or there are too few rows for the parameters.
        ParameterError
            A parameter is out of range for this data, or the memory budget is too small.
        FileError
            A file can't be read, or the checkpoint belongs to other data or parameters, or another run
            holds it.

        See Also
        --------
        nearfold.config_context : Sets the memory budget, the threads and the cluster.
        """
        return self._fit_source(self._opened(X), None, checkpoint)

    @abstractmethod
    def learn_from_scan(
        self, scan: Scan, anchors: Anchors | None, n_components: int, request: ScanSpec
    ) -> Encoder:
        """Return the encoder that a scan for `request` leads to."""

    def _opened(self, X: Any) -> Source:
        """Return X as a source, and note its width and column names as scikit-learn does."""
        check_metric(self.metric)
        source = as_source(X)
        if source.in_memory:
            assert isinstance(source, HeldSource)
            self._noted(source.array if X is source else X)
            check_tiny(source.array, self.metric, source.path)
        else:
            # Names and width are all that is looked at.
            self._noted(np.empty((1, source.layout.n_features), np.float32))
        return source

    def _fit_source(
        self, source: Source, queries: Float32 | None, checkpoint: str | os.PathLike[str] | None
    ) -> Self:
        n_components = resolve_components(self.n_components, source.layout.n_features)
        request = self._request(source.layout.rows, n_components, queries)
        if request is None:
            if checkpoint is not None:
                raise ParameterError(
                    f"checkpoint is for methods that scan their data; {self._method_name} with these "
                    f"parameters holds its rows in memory"
                )
            return super().fit(source)
        found = scan_source(source, request, fewer_anchors=self._fewer_anchors, checkpoint=checkpoint)
        encoder = self.learn_from_scan(found.scan, found.anchors, n_components, found.request)
        self.encoder_ = encoder.with_facts(fingerprint=found.fingerprint)
        return self

    def _request(
        self,
        rows: int,
        n_components: int,
        queries: Float32 | None,  # noqa: ARG002
    ) -> ScanSpec | None:
        return self.scan_spec(rows, n_components)

    @property
    def _fewer_anchors(self) -> bool:
        """Whether a small memory budget may leave out anchors."""
        return False
