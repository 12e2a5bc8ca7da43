"""Whether new vectors are still of the kind that a fold was fitted to.

A fold is measured on samples of fixed sizes when it is fitted, and its facts keep the statistics. Later
samples of the same size give the same statistics again where nothing has changed: how near the nearest
rows are, and so how hard they are to keep, depends on how many rows there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from nearfold._utils.arrays import Float32, check_width, normalize_rows
from nearfold._utils.config import memory_budget
from nearfold._utils.sampling import sampled_rows
from nearfold._utils.threads import blas_threads
from nearfold._utils.warned import warn
from nearfold.errors import DataError, FileError, NearfoldWarning, ParameterError
from nearfold.evaluation.bounds import null_space_energy, row_space
from nearfold.evaluation.ground_truth import GroundTruth, warn_of_copies
from nearfold.evaluation.recall import recall_of_fold
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold, as_fold
from nearfold.io.held import held_rows
from nearfold.io.vectors import as_source, checked_rows
from nearfold.methods.base import AnyFold, FoldEstimator
from nearfold.methods.objective import loss_of_fold
from nearfold.scan.budget import SAMPLED_ROWS, scan_bytes
from nearfold.scan.moments import Moments
from nearfold.scan.neighbors import nearest_others

__all__ = [
    "IN_SAMPLE_ROWS",
    "SAMPLE_SIZES",
    "DriftResult",
    "DriftStats",
    "add_drift_stats",
    "drift",
    "drift_stats",
    "held_out_drift_stats",
    "readable_facts",
    "with_drift_stats",
]

SAMPLE_SIZES = (500, 2_000, SAMPLED_ROWS)
"""Rows of the samples; the largest that both the training data and the new rows fill is compared."""

IN_SAMPLE_ROWS = 50_000
"""From so many rows on, a fold keeps rows that it was fitted to as well as any others."""

_MAX_QUERIES = 500
_K = 10
_BLOCKS, _BLOCK_NEIGHBORS = 256, 32


class DriftStats(NamedTuple):
    """What a fold keeps of a sample of vectors.

    Attributes
    ----------
    rows : int
        The number of rows of the sample.
    recall : float
        recall@10 of a tenth of the rows, at most 500, among the others.
    energy : float or None
        The share of the rows' energy (for l2, of their variance) that a linear fold keeps; None for others.
    loss : float or None
        The mean KL divergence that a linear fold causes in blocks of 33 near rows; None for others.
    """

    rows: int
    recall: float
    energy: float | None = None
    loss: float | None = None


def _measured(fold: Fold, sample: Float32, *, warn: bool = False) -> DriftStats:
    """Return the statistics of a sample of shape (s, d), s at least 500, whose first rows are the queries.

    With `warn`, queries that are found again among the other rows cause a warning.
    """
    n_queries = min(_MAX_QUERIES, len(sample) // 10)
    ground_truth = GroundTruth.compute(sample[n_queries:], sample[:n_queries], _K, fold.metric)
    if warn:
        warn_of_copies(ground_truth)
    recall = recall_of_fold(fold, ground_truth, [_K], []).recall[_K].mean
    if not isinstance(fold, Encoder):
        return DriftStats(len(sample), recall)
    rows = normalize_rows(sample) if fold.metric == "cosine" else sample
    moments = Moments.of(rows, products=np.float64 if fold.metric == "l2" else np.float32)
    second = moments.covariance if fold.metric == "l2" else moments.uncentered
    energy = 1 - null_space_energy(second, row_space(fold.weight))
    if fold.metric == "l2":
        rows = rows - moments.mean.astype(np.float32)
    chosen = np.arange(_BLOCKS)
    neighbors = nearest_others(rows, chosen, _BLOCK_NEIGHBORS, fold.metric)
    blocks = rows[np.column_stack([chosen, neighbors])]
    loss = loss_of_fold(fold.weight, blocks, fold.metric)
    return DriftStats(len(sample), float(recall), float(energy), loss)


def _shuffled(rows: Float32, size: int) -> Float32:
    """Return `size` of the rows in an order of their own: files are often sorted."""
    return rows[np.random.default_rng(size).permutation(len(rows))[:size]]


def drift_stats(fold: Fold, rows: Float32) -> list[DriftStats]:
    """Return a fold's statistics on samples of rows, one for each of SAMPLE_SIZES that the rows fill.

    Parameters
    ----------
    fold : Fold
        A fitted fold.
    rows : ndarray of shape (n, d), float32
        The rows to draw samples from.

    Returns
    -------
    list of DriftStats
    """
    return [_measured(fold, _shuffled(rows, size)) for size in SAMPLE_SIZES if size <= len(rows)]


def held_out_drift_stats(estimator: FoldEstimator, X: Float32, **fit_options: Any) -> list[DriftStats]:
    """Return the statistics of a fold on rows that are held out of fitting it.

    A fold that was fitted to few rows keeps those better than any others. From IN_SAMPLE_ROWS rows on the
    difference is below a point, and `drift_stats` of training rows will do.

    Parameters
    ----------
    estimator : FoldEstimator
        The estimator, a clone of which is fitted to the other rows.
    X : ndarray of shape (n, d), float32
        The rows. A fifth of them is held out, 500 to 5,000 rows.
    **fit_options : dict
        Further arguments of `fit`.

    Returns
    -------
    list of DriftStats
        The list is empty if n is below 1,000, or if the parameters don't allow a fit to fewer than all rows.
    """
    if len(X) < 2 * SAMPLE_SIZES[0]:
        return []
    count = min(SAMPLE_SIZES[-1], max(SAMPLE_SIZES[0], len(X) // 5))
    held = sampled_rows(len(X), count, len(X))
    asked, learned = X[held], np.delete(X, held, axis=0)
    # Where the caller let go of them, these rows are not held twice while the fold is learned.
    del X
    try:
        with warnings.catch_warnings():
            # What the fit of all rows warns of is not said twice.
            warnings.simplefilter("ignore", NearfoldWarning)
            fold = clone(estimator).fit(learned, **fit_options).encoder_
    except ParameterError:
        # Parameters that all rows just allow, the rest of them may not.
        return []
    return drift_stats(fold, asked)


def with_drift_stats(fold: AnyFold, stats: Sequence[DriftStats]) -> AnyFold:
    """Return a fold whose facts hold drift statistics.

    Parameters
    ----------
    fold : Fold
        The fold.
    stats : sequence of DriftStats
        The statistics.

    Returns
    -------
    Fold
        A new fold of the same class, or `fold` itself if there are no statistics.
    """
    return fold.with_facts(drift_stats=[entry._asdict() for entry in stats]) if stats else fold


def add_drift_stats(
    fold: AnyFold, estimator: FoldEstimator, X: Any, queries: Any = None, *, seed: int = 0
) -> AnyFold:
    """Return a fold whose facts hold the statistics that `drift` compares new vectors with.

    From 50,000 rows on they are measured on a sample of the rows that the fold was fitted to. Below that,
    a second fit holds rows out, and they are measured on those.

    Parameters
    ----------
    fold : Fold
        The fold that `estimator` has learned from X.
    estimator : FoldEstimator
        The estimator; it is cloned for the second fit, and not changed.
    X : array-like of shape (n, d), data frame, path, URL or Source
        The vectors that the fold was fitted to.
    queries : array-like of shape (n_queries, d), data frame, path, URL or Source, optional
        The queries that it was fitted with, if any.
    seed : int, default=0
        The seed of the sample.

    Returns
    -------
    Fold
        The fold itself where there are fewer than 1,000 rows, or too little memory for the second fit.

    Raises
    ------
    DataError, FileError
        The vectors can't be read.

    Warns
    -----
    NearfoldWarning
        Memory is too little for the second fit.
    """
    source = as_source(X)
    rows, n_features = source.layout.rows, source.layout.n_features
    if rows >= IN_SAMPLE_ROWS:
        chosen = sampled_rows(rows, SAMPLE_SIZES[-1], seed + 1)
        return with_drift_stats(fold, drift_stats(fold, checked_rows(source.take(chosen), chosen, source)))
    # The rows, those that are fitted to, and what the fit computes of them.
    needed = 3 * 4 * rows * n_features + scan_bytes(rows, n_features, 0, 0, blas_threads())
    if needed > (budget := memory_budget()):
        warn(
            f"memory={budget / 1e6:.0f}MB is too little for the second fit that measures what `drift` "
            f"compares with, which is skipped: allow {-(-needed // 1_000_000)}MB for it"
        )
        return fold
    options = {} if queries is None else {"queries": held_rows(queries, name="queries")}
    return with_drift_stats(fold, held_out_drift_stats(estimator, held_rows(source), **options))


def readable_facts(fold: Fold) -> dict[str, object]:
    """Return a fold's facts with its drift statistics as text.

    Parameters
    ----------
    fold : Fold
        The fold.

    Returns
    -------
    dict of str to object
        The facts by name. Each sample of the drift statistics has an entry of its own.
    """
    facts: dict[str, object] = {name: value for name, value in fold.facts.items() if name != "drift_stats"}
    for entry in fold.known_facts.drift_stats:
        values = {"recall": entry.recall, "energy": entry.energy, "loss": entry.loss}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
        facts[f"sample of {entry.rows}"] = shown
    return facts


class DriftResult(NamedTuple):
    """A fold's statistics when it was fitted, and on new vectors.

    Attributes
    ----------
    baseline, current : DriftStats
        The statistics of then and of now, on samples of the same size.
    """

    baseline: DriftStats
    current: DriftStats

    @property
    def recall_drop(self) -> float:
        """How much of recall@10 is lost."""
        return self.baseline.recall - self.current.recall

    @property
    def energy_drop(self) -> float | None:
        """How much of the energy kept is lost; None for a fold that is not linear."""
        if self.baseline.energy is None or self.current.energy is None:
            return None
        return self.baseline.energy - self.current.energy

    @property
    def loss_rise(self) -> float | None:
        """By which share of itself the loss has risen; None where it was 0 or the fold is not linear."""
        if not self.baseline.loss or self.current.loss is None:
            return None
        return self.current.loss / self.baseline.loss - 1

    def exceeds(self, max_drop: float, max_loss_rise: float) -> list[str]:
        """Return the names of the statistics that are past their limits.

        Parameters
        ----------
        max_drop : float
            The limit of the drops of recall and of energy.
        max_loss_rise : float
            The limit of the rise of the loss, as a share of itself.

        Returns
        -------
        list of {"recall", "energy", "loss"}
        """
        limits = {
            "recall": (self.recall_drop, max_drop),
            "energy": (self.energy_drop, max_drop),
            "loss": (self.loss_rise, max_loss_rise),
        }
        return [name for name, (value, limit) in limits.items() if value is not None and value > limit]


def drift(fold: Any, X: Any, *, seed: int = 0) -> DriftResult:
    """Compare new vectors with those that a fold was fitted to.

    A sample of the new vectors is folded, and what the fold keeps of it is compared with what it kept of a
    sample of the same size when it was fitted.

    Parameters
    ----------
    fold : Fold or estimator
        A fold that `nearfold fit` saved, or that `add_drift_stats` returned.
    X : array-like of shape (n, d), data frame, path, URL or Source
        The new vectors, at least 500; a sample of 5,000 of them is read.
    seed : int, default=0
        The seed of the sample.

    Returns
    -------
    DriftResult

    Raises
    ------
    FileError
        The fold has no statistics of its training rows, or a file can't be read.
    DataError
        The new vectors are fewer than 500, not as wide as the fold expects, not finite, or zero under
        cosine.

    Warns
    -----
    NearfoldWarning
        Many of the new vectors are copies of each other.
    """
    fold, source = as_fold(fold), as_source(X)
    check_width("the new rows", source.layout.n_features, fold.n_features)
    rows = held_rows(source, SAMPLE_SIZES[-1], seed=seed, directions=fold.metric == "cosine")
    entries = [
        DriftStats(entry.rows, entry.recall, entry.energy, entry.loss)
        for entry in fold.known_facts.drift_stats
    ]
    # Statistics of samples of other sizes are none that new rows can be compared by.
    known = {entry.rows: entry for entry in entries if entry.rows in SAMPLE_SIZES}
    if not known:
        raise FileError(
            "the encoder has no drift statistics of its training rows: it was fitted to fewer than "
            f"{2 * SAMPLE_SIZES[0]}, or not by `nearfold fit`"
        )
    sizes = [size for size in known if size <= len(rows)]
    if not sizes:
        raise DataError(f"{len(rows)} new rows are too few to compare; give at least {min(known)}")
    size = max(sizes)
    return DriftResult(known[size], _measured(fold, _shuffled(rows, size), warn=True))
