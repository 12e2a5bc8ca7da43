"""NearFold, which learns a fold from neighbourhoods."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from nearfold._utils.arrays import (
    Float32,
    Float64,
    Metric,
    check_positive,
    check_products,
)
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import check_rows_for_components
from nearfold.methods.pca import leading_axes
from nearfold.methods.queries import (
    clearly_better,
    held_out,
    query_weight,
    recalls,
    sample_of_queries,
    separate_blocks,
)
from nearfold.methods.scanned import ScanFold
from nearfold.methods.training import Trained, WeightedBlocks, train_on_blocks
from nearfold.scan.moments import Moments
from nearfold.scan.scan import Anchors, Blocks, Scan, ScanSpec

__all__ = ["NearFold"]

_DEFAULT_NEIGHBORS = 64

# Rows whose moments are enough to start from, evenly spread over more. Summing those of all rows
# would be a quarter of a long scan.
_MOMENT_ROWS = 1 << 15

_STEPS, _MANY_STEPS = 200, 600

# The first dimensions of a nested fold that count, as shares of all, and the weight of the loss of all: with
# as much, all keep within .005 of the recall of a fold for its own sake, and half of them within .01.
_NESTED, _WHOLE = ((1, 4), (1, 3), (1, 2), (2, 3)), 0.7

_MAX_ANCHORS, _MIN_ANCHORS = 3000, 1024
# Scores of anchors with rows that are cheap beside the rest of a fit.
_CHEAP_SCORES = 300_000_000


def default_anchors(rows: int) -> int:
    """Return how many anchors to draw from so many rows.

    Parameters
    ----------
    rows : int
        Number n of rows.

    Returns
    -------
    int
        3,000, fewer from 100,000 rows on, and never below 1,024.
    """
    return max(_MIN_ANCHORS, min(_MAX_ANCHORS, _CHEAP_SCORES // rows))


def _trace(second: npt.NDArray[np.float64]) -> float:
    return max(float(np.trace(second)), np.finfo(np.float64).tiny)


class NearFold(ScanFold):
    """Learn the linear fold that keeps each vector's neighbours in the metric to be searched.

    A block is a row (the anchor) with its exact nearest neighbours among all rows. The fold is trained so
    that the softmax of the scores within each block stays what it was before folding: the loss is the mean
    KL divergence between the two. Training starts at principal axes. The scores are those of `metric`, so
    always train in the metric that the folded vectors are searched with.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that neighbours are looked for with, and that the folded vectors will be searched with.
    n_neighbors : int or None, default=None
        Number of neighbours in a block. None takes 64, or all other rows where there are fewer. Copies of a
        row, and rows that are equal but for rounding, count as one.
    n_anchors : int or None, default=None
        Number of blocks at most, and as many more of queries where `fit` is given some. Neighbours come
        from all rows, anchors need not. None takes 3,000, and fewer
        from 100,000 rows on, down to 1,024: more would gain less than 0.002 of recall there, and the search
        for their neighbours would be most of the time.
    n_steps : int or None, default=None
        Number of steps of Adam. None takes 200, or 600 for 32 dimensions or fewer, where they are cheap and
        help, and 600 for a nested fold, which has more to fit.
    blocks_per_step : int, default=24
        Number of blocks in a step, and as many more of queries where `fit` is given some.
    learning_rate : float or None, default=None
        Peak of the one-cycle schedule. None takes one that fits what the start has lost: at most 4e-3, and
        less where a fold starts out nearly lossless.
    nested : bool or sequence of int, default=False
        Whether the first dimensions of the fold are to be good folds themselves, so that one fold serves
        several widths; see `Encoder.truncate`. True takes the first quarter, third, half and two thirds of
        the dimensions; a sequence names the widths. The loss of all dimensions then has the weight 0.7, and
        those of the widths share 0.3.
    random_state : int, RandomState or None, default=0
        Seed of the anchors and the batches.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold, without a bias by "cosine" and "ip"; by "l2" the bias moves the mean of the rows to
        zero. Its facts are `rows`, `anchors`, `neighbors`, `learning_rate`, and the losses on a sample of the
        blocks before and after training, `loss_before` and `loss_after`; and where `fit` was given queries,
        `queries`, the number of those that are anchors, and `query_weight`, the weight of their blocks. A
        nested fold has `nested`, its widths, and its losses are the weighted sums over these.
    components_ : ndarray of shape (m, d), float32
        Weight of the encoder.
    mean_ : ndarray of shape (d,), float64, or None
        Mean of the rows that were summed, which are all or evenly spread ones; None by "cosine" and "ip".
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    DataError
        X has too few or only equal rows, or a zero row by "cosine".
    ParameterError
        A parameter is out of range for so many rows.

    Warns
    -----
    NearfoldWarning
        Scores of neighbours differ by hardly more than float32 tells.

    References
    ----------
    Hinton, Roweis, "Stochastic neighbor embedding" (NIPS 2002), for the divergence between softmaxes.

    Smith, Topin, "Super-convergence" (arXiv 1708.07120), for the one-cycle schedule.

    Kusupati et al., "Matryoshka representation learning" (arXiv 2205.13147), for the sum of losses over
    first dimensions.

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
        nested: bool | Sequence[int] = False,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.n_anchors = n_anchors
        self.n_steps = n_steps
        self.blocks_per_step = blocks_per_step
        self.learning_rate = learning_rate
        self.nested = nested
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: object = None,  # noqa: ARG002
        *,
        queries: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Learn the encoder from one scan of the data, in bounded memory.

        Parameters
        ----------
        X : array-like, path, URL or Source
            The base, shape (n, d), of any real dtype: an array, a frame of pandas or polars, a column of
            vectors; or the name of a file, a folder of files or a URL, or what `open_source` made of one.
            It is computed with in float32.
        y : object, default=None
            Ignored; present because pipelines of scikit-learn pass it.
        queries : array-like, path, URL or Source, optional
            A sample of queries, shape (q, d), where they differ from the base in kind, such as texts that
            ask for images. Each is an anchor too, at most `n_anchors` of them, and in its block it counts
            which rows of the base it finds. The loss on the blocks of q queries has the weight
            0.5 q / (q + 500), and that on the blocks of rows the rest, so that few queries change little.
            From 36 on, up to 500 queries are held out from the learning, and where blocks of queries alone
            lead to a clearly higher recall of these, those alone are learned from. By default all anchors
            are rows of the base.
        checkpoint : path, optional
            A file that holds the scan as it goes. An interrupted fit is resumed from it, and `update` adds
            new rows to a finished one. By default nothing is kept.

        Returns
        -------
        self : NearFold
            With `encoder_`.

        Raises
        ------
        DataError
            X or queries are not a finite table of vectors, have too few or only equal rows, or a zero
            vector under cosine.
        ParameterError
            A parameter is out of range for this data, or the memory budget is too small.
        FileError
            A file can't be read, or the checkpoint belongs to other data or parameters, or another run
            holds it.

        Warns
        -----
        NearfoldWarning
            The memory budget holds the neighbourhoods of fewer anchors than usual.
        """
        source = self._opened(X)
        return self._fit_source(source, sample_of_queries(queries, source), checkpoint)

    def _request(self, rows: int, n_components: int, queries: Float32 | None) -> ScanSpec:
        return self.scan_spec(rows, n_components, queries)

    @property
    def _fewer_anchors(self) -> bool:
        return self.n_anchors is None

    def scan_spec(self, rows: int, n_components: int, queries: Float32 | None = None) -> ScanSpec:
        """Return what to scan for, which is moments, and the neighbours of a sample.

        Parameters
        ----------
        rows : int
            Number of rows that will be learned from.
        n_components : int
            Number m of reduced dimensions.
        queries : ndarray of shape (q, d), float32, optional
            Sample of queries of another kind, from which anchors are drawn too. By default all are rows.

        Returns
        -------
        ScanSpec

        Raises
        ------
        ParameterError
            A parameter is out of range for so many rows.
        """
        if self.n_steps is not None:
            check_positive("n_steps", self.n_steps)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate, integer=False)
        if self.n_anchors is not None:
            check_positive("n_anchors", self.n_anchors)
        check_positive("blocks_per_step", self.blocks_per_step)
        check_rows_for_components(rows, n_components)
        self._widths(n_components)
        return ScanSpec(
            metric=self.metric,
            normalize=self.metric == "cosine",
            products=np.float32,
            n_anchors=default_anchors(rows) if self.n_anchors is None else int(self.n_anchors),
            k=self._neighbors_for(rows - 1),
            seed=int(check_random_state(self.random_state).randint(2**31)),
            stride=max(1, rows // _MOMENT_ROWS),
            queries=queries,
        )

    def learn_from_scan(
        self, scan: Scan, anchors: Anchors | None, n_components: int, request: ScanSpec
    ) -> Encoder:
        """Return the encoder trained on the blocks that a scan found, and note the mean.

        Parameters
        ----------
        scan : Scan
            Result of a scan for `scan_spec`.
        anchors : Anchors
            Anchors whose neighbours the scan looked for.
        n_components : int
            Number m of reduced dimensions.
        request : ScanSpec
            What was asked of the scan.

        Returns
        -------
        Encoder

        Raises
        ------
        DataError
            The rows of every block are equal, or their products leave the range of float32.
        """
        assert anchors is not None
        check_products(anchors.vectors[anchors.of_rows], self.metric, "X")
        centered = request.metric == "l2"
        # Axes don't depend on the scale, so that the mean would be a copy for nothing.
        second = scan.moments.covariance if centered else scan.moments.second
        facts: dict[str, Any] = {}
        if len(anchors.of_queries):
            check_products(anchors.vectors[anchors.of_queries], self.metric, "queries")
            trained, blocks, facts = self._trained_for_queries(scan, anchors, second, n_components, request)
        else:
            blocks = scan.blocks(anchors)
            start = leading_axes(second, n_components)
            del second
            trained = self._trained(start, [WeightedBlocks(blocks)], request)
        if widths := self._widths(n_components):
            facts["nested"] = list(widths)[:-1]
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
            **facts,
        )

    def _trained(self, start: Float32, parts: list[WeightedBlocks], request: ScanSpec) -> Trained:
        """Return what training on blocks leads to, with the parameters of this estimator."""
        widths = self._widths(len(start))
        n_steps = self.n_steps
        if n_steps is None:
            n_steps = _MANY_STEPS if widths or len(start) <= 32 else _STEPS
        rng = np.random.default_rng(request.seed)
        return train_on_blocks(
            start, parts, self.metric, n_steps, self.learning_rate, self.blocks_per_step, rng, widths
        )

    def _trained_for_queries(
        self, scan: Scan, anchors: Anchors, second: Float64, n_components: int, request: ScanSpec
    ) -> tuple[Trained, Blocks, dict[str, Any]]:
        """Return what training with queries leads to, the blocks of rows, and the facts of the queries."""
        blocks, others = separate_blocks(scan, anchors)
        held = held_out(len(others.index))
        learned = replace(others, index=others.index[~held])
        weight = query_weight(len(learned.index))
        start = leading_axes(second, n_components)
        parts = [WeightedBlocks(blocks, 1 - weight), WeightedBlocks(learned, weight)]
        trained, alone = self._trained(start, parts, request), False
        if held.any():
            # Where queries alone count, directions that they never look along are not worth keeping.
            asked = Moments.of(learned.vectors[learned.index[:, 0]], products=np.float32)
            seen = asked.covariance if request.metric == "l2" else asked.uncentered
            start = leading_axes(second / _trace(second) + seen / _trace(seen), n_components)
            rival = self._trained(start, [WeightedBlocks(learned)], request)
            n_rows = len(others.vectors) - len(anchors.of_queries)
            ours, theirs = (
                recalls(fold.weight, others, others.index[held], n_rows, self.metric)
                for fold in (trained, rival)
            )
            alone = clearly_better(theirs, ours)
            trained = rival if alone else trained
        return trained, blocks, {"queries": len(others.index), "query_weight": 1.0 if alone else weight}

    def _widths(self, n_components: int) -> dict[int, float] | None:
        """Return the weight of the loss of the first so many dimensions, by their number."""
        if isinstance(self.nested, bool | np.bool_):
            widths = {n_components * over // under for over, under in _NESTED} if self.nested else set()
            widths.discard(0)
        elif not isinstance(self.nested, list | tuple | range):
            raise ParameterError(f"nested={self.nested!r} must be True, False or a list of widths")
        else:
            for width in self.nested:
                check_positive("nested", width)
            widths = {int(width) for width in self.nested}
            if widths and max(widths) >= n_components:
                raise ParameterError(
                    f"nested={max(widths)} must be below the {n_components} dimensions of the whole fold"
                )
        if not widths:
            return None
        share = (1 - _WHOLE) / len(widths)
        return {**dict.fromkeys(sorted(widths), share), n_components: _WHOLE}

    def _neighbors_for(self, available: int) -> int:
        """Return the number of neighbours, given how many rows an anchor can have as such."""
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
        """Whether `metric` changes what is learned: always, as the objective is that of the metric."""
        return True

    @property
    def _method_name(self) -> str:
        return "nearfold"
