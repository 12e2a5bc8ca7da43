"""Methods that learn from what one scan gives, and so from data of any size."""

from __future__ import annotations

from abc import abstractmethod

from nearfold._utils.arrays import Float32
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import LinearFold
from nearfold.scan.scan import Anchors, Request, Scan
from nearfold.scan.scanner import scan_array

__all__ = ["ScanFold"]


class ScanFold(LinearFold):
    """Base of the estimators that say what to scan for and learn from what is found.

    `fit` scans an array; `nearfold.fit_files` scans files, on one machine or many, for the same result.
    """

    @abstractmethod
    def learn_from_scan(
        self, scan: Scan, anchors: Anchors | None, n_components: int, request: Request
    ) -> Encoder:
        """Return the encoder that a scan for `request` leads to."""

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        request = self.scan_request(len(X), n_components)
        assert request is not None
        return self.learn_from_scan(*scan_array(X, request), n_components, request)
