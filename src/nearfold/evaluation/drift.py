"""Whether new vectors are still of the kind that a fold was learned from.

A fold is looked at on samples of fixed sizes when it is learned, and the figures go into its facts.
Later samples of the same size give the same figures again where nothing has changed: how near the
nearest rows are, and so how hard they are to keep, depends on how many there are.
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
from nearfold.evaluation.ground_truth import Truth, warn_of_copies
from nearfold.evaluation.recall import judge
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.io.held import held_rows
from nearfold.io.vectors import as_source, checked_rows
from nearfold.methods.base import AnyFold, FoldEstimator
from nearfold.methods.objective import loss_of_fold
from nearfold.scan.budget import scan_bytes
from nearfold.scan.moments import Moments
from nearfold.scan.neighbors import nearest_others

__all__ = [
    "IN_SAMPLE_ROWS",
    "SAMPLE_SIZES",
    "Drift",
    "Figures",
    "add_drift_stats",
    "compare_with_training",
    "figures_of",
    "held_back_figures",
    "measure",
    "readable_facts",
    "with_figures",
]

SAMPLE_SIZES = (500, 2_000, 5_000)
"""Rows of the samples; the largest that both the training data and the new rows fill is compared."""

IN_SAMPLE_ROWS = 50_000
"""From so many rows on a fold's figures on rows that it was learned from are those on any others."""

_MAX_QUERIES = 500
_K = 10
_BLOCKS, _BLOCK_NEIGHBORS = 256, 32


class Figures(NamedTuple):
    """A fold on a sample.

    Parameters
    ----------
    rows
        Of the sample.
    preservation
        P@10 of a tenth of the rows, at most 500, among the others.
    energy
        The share of the rows' energy (of their variance for l2) that a linear fold keeps; None for others.
    loss
        The mean KL divergence that folding causes in blocks of 33 near rows; None for a non-linear fold.
    """

    rows: int
    preservation: float
    energy: float | None = None
    loss: float | None = None


def measure(fold: Fold, sample: Float32, *, warn: bool = False) -> Figures:
    """Return a fold's figures on a sample of shape (s, d), s at least 500; its first rows are the queries.

    With `warn` it is said where many of these are found again among the others.
    """
    n_queries = min(_MAX_QUERIES, len(sample) // 10)
    truth = Truth.compute(sample[n_queries:], sample[:n_queries], _K, fold.metric)
    if warn:
        warn_of_copies(truth)
    preservation = judge(fold, truth, [_K], []).preservation[_K].mean
    if not isinstance(fold, Encoder):
        return Figures(len(sample), preservation)
    rows = normalize_rows(sample) if fold.metric == "cosine" else sample
    moments = Moments.of(rows, products=np.float64 if fold.metric == "l2" else np.float32)
    second = moments.covariance if fold.metric == "l2" else moments.uncentered
    energy = 1 - null_space_energy(second, row_space(fold.weight))
    if fold.metric == "l2":
        rows = rows - moments.mean.astype(np.float32)
    chosen = np.arange(_BLOCKS)
    neighbors = nearest_others(rows, chosen, _BLOCK_NEIGHBORS, fold.metric)
    blocks = rows[np.column_stack([chosen, neighbors])]
    lost = loss_of_fold(fold.weight, blocks, fold.metric)
    return Figures(len(sample), float(preservation), float(energy), lost)


def _shuffled(rows: Float32, size: int) -> Float32:
    """Return `size` of the rows in an order of their own: files are often sorted."""
    return rows[np.random.default_rng(size).permutation(len(rows))[:size]]


def figures_of(fold: Fold, rows: Float32) -> list[Figures]:
    """Return a fold's figures on samples of rows of shape (n, d), of each of SAMPLE_SIZES that they fill."""
    return [measure(fold, _shuffled(rows, size)) for size in SAMPLE_SIZES if size <= len(rows)]


def held_back_figures(estimator: FoldEstimator, X: Float32, **fit_options: Any) -> list[Figures]:
    """Return the figures of a fold on rows held back from learning it.

    A fold learned from few rows keeps those better than any others. From IN_SAMPLE_ROWS rows on the
    difference is below a point, and `figures_of` training rows will do.

    Parameters
    ----------
    estimator
        What is fitted to the other rows; a clone of it.
    X
        Shape (n, d), float32. A fifth is held back, 500 to 5,000 rows; none are where n is below 1,000.
    fit_options
        Further arguments of `fit`.
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
    return figures_of(fold, asked)


def add_drift_stats(fold: AnyFold, estimator: FoldEstimator, X: Any, *, queries: Any = None) -> AnyFold:
    """Return a fold whose facts hold what `drift` compares new rows with.

    From 50,000 rows on the fold's own figures on a sample of its data serve. Below that a clone of the
    estimator is fitted to four fifths of the rows and measured on the others, for a fold keeps the rows it
    was learned from better than any others.

    Parameters
    ----------
    fold : Fold
        What `estimator` learned from X.
    estimator : FoldEstimator
        Its parameters are those of the second fit.
    X : array-like, path, URL or Source
        The data that the fold was learned from, shape (n, d).
    queries : array-like, optional
        The queries that it was learned for, shape (q, d).

    Warns
    -----
    NearfoldWarning
        The memory budget is too small for the second fit; the fold is returned as it is.
    """
    source = as_source(X)
    rows, width = source.layout.rows, source.layout.n_features
    if rows >= IN_SAMPLE_ROWS:
        chosen = sampled_rows(rows, SAMPLE_SIZES[-1], rows)
        return with_figures(fold, figures_of(fold, checked_rows(source.take(chosen), chosen, source)))
    needed = 3 * 4 * rows * width + scan_bytes(rows, width, 0, 0, blas_threads())
    if not source.in_memory and needed > memory_budget():
        warn(
            f"memory={memory_budget() / 1e6:.0f}MB is too little for the second fit that notes what `drift` "
            f"compares with; it is left out: allow {-(-needed // 1_000_000)}MB for it"
        )
        return fold
    options = {} if queries is None else {"queries": queries}
    return with_figures(fold, held_back_figures(estimator, held_rows(source), **options))


def with_figures(fold: AnyFold, figures: Sequence[Figures]) -> AnyFold:
    """Return a fold whose facts hold its figures; the fold itself where there are none."""
    return fold.with_facts(watch=[entry._asdict() for entry in figures]) if figures else fold


def readable_facts(fold: Fold) -> dict[str, object]:
    """Return a fold's facts with its figures on samples as text."""
    facts: dict[str, object] = {name: value for name, value in fold.facts.items() if name != "watch"}
    for entry in fold.facts.get("watch", []):
        shown = ", ".join(f"{name} {value:.4f}" for name, value in entry.items() if isinstance(value, float))
        facts[f"sample of {entry['rows']}"] = shown
    return facts


class Drift(NamedTuple):
    """A fold's figures when it was learned and on new rows.

    Parameters
    ----------
    then, now
        On samples of the same size.
    """

    then: Figures
    now: Figures

    @property
    def preservation_drop(self) -> float:
        """How much of P@10 is lost."""
        return self.then.preservation - self.now.preservation

    @property
    def energy_drop(self) -> float | None:
        """How much of the energy kept is lost."""
        if self.then.energy is None or self.now.energy is None:
            return None
        return self.then.energy - self.now.energy

    @property
    def loss_rise(self) -> float | None:
        """By which share of itself the block loss has risen."""
        if not self.then.loss or self.now.loss is None:
            return None
        return self.now.loss / self.then.loss - 1

    def exceeds(self, max_drop: float, max_loss_rise: float) -> list[str]:
        """Return which figures are past their limits: drops of P@10 and energy, rise of the loss."""
        limits = {
            "preservation": (self.preservation_drop, max_drop),
            "energy": (self.energy_drop, max_drop),
            "loss": (self.loss_rise, max_loss_rise),
        }
        return [name for name, (value, limit) in limits.items() if value is not None and value > limit]


def compare_with_training(fold: Fold, rows: Float32) -> Drift:
    """Compare new rows of shape (n, d) with those that a fold was learned from.

    Raises
    ------
    FileError
        The fold has no figures of its training rows.
    DataError
        There are fewer new rows than the smallest sample, or they are not as wide.
    """
    entries = [
        Figures(*(entry.get(name) for name in Figures._fields)) for entry in fold.facts.get("watch", [])
    ]
    # Figures on samples of other sizes are none that new rows can be compared by.
    known = {entry.rows: entry for entry in entries if entry.rows in SAMPLE_SIZES}
    if not known:
        raise FileError(
            "the encoder has no figures of its training rows: it was fitted to fewer than "
            f"{2 * SAMPLE_SIZES[0]}, or not by `nearfold fit`"
        )
    check_width("the new rows", rows.shape[1], fold.n_features)
    sizes = [size for size in known if size <= len(rows)]
    if not sizes:
        raise DataError(f"{len(rows)} new rows are too few to compare; give at least {min(known)}")
    return Drift(known[max(sizes)], measure(fold, _shuffled(rows, max(sizes)), warn=True))
