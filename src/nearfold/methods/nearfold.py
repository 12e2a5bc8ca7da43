"""NearFold: the fold learned from neighbourhoods."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from nearfold._utils.arrays import (
    Float32,
    Metric,
    as_vectors,
    check_positive,
    check_products,
    resolve_components,
)
from nearfold.errors import DataError, ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import check_rows_for_components, fingerprinted
from nearfold.methods.pca import leading_axes
from nearfold.methods.scanned import ScanFold
from nearfold.methods.training import train_on_blocks
from nearfold.scan.moments import Moments
from nearfold.scan.scan import Anchors, Request, Scan
from nearfold.scan.scanner import scan_array

__all__ = ["NearFold"]

_DEFAULT_NEIGHBORS = 64

# Rows whose moments are enough to start from, evenly spread over more. Summing those of all rows
# would be a quarter of a long scan.
_MOMENT_ROWS = 1 << 15

_MAX_ANCHORS, _MIN_ANCHORS = 3000, 1024
# Scores of anchors with rows that are cheap beside the rest of a fit.
_CHEAP_SCORES = 300_000_000


def default_anchors(rows: int) -> int:
    """Return how many anchors to draw from so many rows."""
    return max(_MIN_ANCHORS, min(_MAX_ANCHORS, _CHEAP_SCORES // rows))


def _trace(second: npt.NDArray[np.float64]) -> float:
    return max(float(np.trace(second)), np.finfo(np.float64).tiny)


class NearFold(ScanFold):
    """Learn the linear fold that keeps each vector's neighbours in the metric to be searched.

    Blocks of an anchor and its exact nearest neighbours in all the data are folded so that the
    softmax of scores within each block stays what it was (loss: KL divergence); training
    starts at principal axes. The objective is the same for every metric; always train in the
    metric that the folded vectors are searched with.

    Parameters
    ----------
    n_components
        Reduced dimensions m < d: a number, or a share such as "25%".
    metric
        "cosine", "l2" or "ip".
    n_neighbors
        Neighbours in a block; None for 64, or all other rows where there are fewer. Copies of a row, and
        rows that are equal but for rounding, count as one.
    n_anchors
        Blocks at most. Neighbours come from all rows, anchors need not. None for 3,000, fewer from
        100,000 rows on, down to 1,024: what is left of their gain there is below a point's fifth,
        and the search for their neighbours would be most of the time.
    n_steps
        Steps of Adam; None for 200, or 600 for 32 dimensions or fewer, where they are cheap and help.
    blocks_per_step
        Blocks in a step.
    learning_rate
        The peak of the one-cycle schedule; None for one that fits what the start has lost (at most
        4e-3, less where a fold starts out nearly lossless).
    random_state
        Seed of the anchors and the batches.

    Attributes
    ----------
    encoder_ : Encoder
        Without bias for cosine and ip; for l2 the bias moves the data's mean to zero. Facts:
        rows, anchors, neighbors, learning_rate, loss_before and loss_after on a sample of the blocks.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((200, 16))
    >>> NearFold(n_components=4, n_steps=20).fit_transform(X).shape
    (200, 4)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        metric: Metric = "cosine",
        n_neighbors: int | None = None,
        n_anchors: int | None = None,
        n_steps: int | None = None,
        blocks_per_step: int = 24,
        learning_rate: float | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.n_anchors = n_anchors
        self.n_steps = n_steps
        self.blocks_per_step = blocks_per_step
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: object = None, *, queries: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002
        """Learn the encoder.

        Parameters
        ----------
        X
            The base, shape (n, d), any real dtype; computed in float32.
        y
            Ignored; present for pipelines.
        queries
            A sample of queries, shape (q, d), where they differ from the base in kind (text
            that asks for images): anchors are then queries, their neighbours base rows, and
            what counts is which base rows a query finds.

        Returns
        -------
        self, with `encoder_`.

        Raises
        ------
        DataError
            X or queries is not a finite table of vectors, has too few or only equal rows, or
            a zero vector under cosine.
        ParameterError
            A parameter is out of range for this data.
        """
        base = self._checked(X)
        asked = None if queries is None else as_vectors(queries, "queries")
        if asked is not None and asked.shape[1] != base.shape[1]:
            raise DataError(f"queries has {asked.shape[1]} dimensions where X has {base.shape[1]}")
        n_components = resolve_components(self.n_components, base.shape[1])
        request = self.scan_request(len(base), n_components, asked)
        encoder = self.learn_from_scan(*scan_array(base, request), n_components, request)
        self.encoder_ = fingerprinted(encoder, base)
        return self

    def scan_request(self, rows: int, n_components: int, queries: Float32 | None = None) -> Request:
        """Return what to scan for: moments, and the neighbours of a sample."""
        if self.n_steps is not None:
            check_positive("n_steps", self.n_steps)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate, integer=False)
        if self.n_anchors is not None:
            check_positive("n_anchors", self.n_anchors)
        check_positive("blocks_per_step", self.blocks_per_step)
        check_rows_for_components(rows, n_components)
        return Request(
            metric=self.metric,
            normalize=self.metric == "cosine",
            products=np.float32,
            n_anchors=default_anchors(rows) if self.n_anchors is None else int(self.n_anchors),
            k=self._neighbors_for(rows - (queries is None)),
            seed=int(check_random_state(self.random_state).randint(2**31)),
            stride=max(1, rows // _MOMENT_ROWS),
            queries=queries,
        )

    def learn_from_scan(
        self, scan: Scan, anchors: Anchors | None, n_components: int, request: Request
    ) -> Encoder:
        """Return the encoder trained on the blocks that a scan found."""
        assert anchors is not None
        check_products(anchors.vectors, self.metric, "X" if request.queries is None else "queries")
        centered = request.metric == "l2"
        # Axes don't depend on the scale, so that the mean would be a copy for nothing.
        second = scan.moments.covariance if centered else scan.moments.second
        if request.queries is not None:
            # Directions that queries never look along are not worth keeping, whatever the base
            # has there: start from what both hold, in equal shares.
            asked = Moments.of(anchors.vectors, products=np.float32)
            seen = asked.covariance if centered else asked.uncentered
            second = second / _trace(second) + seen / _trace(seen)
        start = leading_axes(second, n_components)
        del second
        blocks = scan.blocks(anchors)
        n_steps = (600 if n_components <= 32 else 200) if self.n_steps is None else self.n_steps
        trained = train_on_blocks(
            start,
            blocks,
            self.metric,
            n_steps,
            self.learning_rate,
            self.blocks_per_step,
            np.random.default_rng(request.seed),
        )
        self.mean_ = scan.mean if centered else None
        return self._encoder(
            trained.weight,
            None if self.mean_ is None else -trained.weight @ self.mean_,
            rows=scan.rows,
            anchors=len(blocks.index),
            neighbors=blocks.index.shape[1] - 1,
            learning_rate=trained.learning_rate,
            loss_before=trained.loss_before,
            loss_after=trained.loss_after,
        )

    def _neighbors_for(self, available: int) -> int:
        """Return k, given how many rows an anchor can have as neighbours."""
        if self.n_neighbors is None:
            return min(_DEFAULT_NEIGHBORS, available)
        check_positive("n_neighbors", self.n_neighbors)
        if self.n_neighbors > available:
            raise ParameterError(
                f"n_neighbors={self.n_neighbors} needs more rows: an anchor has only {available} others here"
            )
        return int(self.n_neighbors)

    @property
    def learns_metric(self) -> bool:
        """True: the objective is that of the metric searched."""
        return True

    @property
    def _method_name(self) -> str:
        return "nearfold"
