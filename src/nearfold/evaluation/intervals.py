"""Means over queries of shares between 0 and 1, with 95% confidence intervals that also hold near 1.

Where most queries keep all of their neighbours, resampling sees too little: percentile bootstrap
intervals of such means hold the true one far less often than they say.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from nearfold._utils.arrays import Float64

__all__ = ["Estimate", "estimate", "paired_estimate", "ratio_estimate"]


_TAIL = 0.025
# How many queries that are neither all right nor all wrong it takes to trust their spread by half.
_DOUBT = 4.0


class Estimate(NamedTuple):
    """A mean over queries, or a difference or ratio of two such means, with its 95% confidence interval.

    Attributes
    ----------
    mean : float
        The mean, the difference or the ratio.
    low, high : float
        The ends of the interval.
    """

    mean: float
    low: float
    high: float


def estimate(values: Float64) -> list[Estimate]:
    """Return the mean of each column of shares with its interval.

    The interval is that of Clopper and Pearson for as many independent yes-or-no answers as would
    spread like the shares do (Korn and Graubard, Survey Methodology 24, 1998). A spread that rests on
    few queries is taken for larger, up to that of yes-or-no answers, one a query.

    Parameters
    ----------
    values : ndarray of shape (n_queries, n_columns), float64
        The shares of each query, from 0 to 1.

    Returns
    -------
    list of Estimate
        One estimate for each column.
    """
    means = values.mean(axis=0)
    lows, highs = _limits(values)
    return [Estimate(*map(float, each)) for each in zip(means, lows, highs, strict=True)]


def paired_estimate(first: Float64, second: Float64) -> Estimate:
    """Return the mean of first - second, query by query, with its interval.

    The intervals of both means are combined by their correlation (Newcombe, Statistics in Medicine 17,
    1998, method 10; Zou and Donner, the same journal, 27, 2008).

    Parameters
    ----------
    first, second : ndarray of shape (n_queries,), float64
        The shares of the same queries, from 0 to 1.

    Returns
    -------
    Estimate
    """
    both = np.column_stack([first, second])
    means = both.mean(axis=0)
    (low_1, low_2), (high_1, high_2) = np.abs(np.array(_limits(both)) - means)
    correlation = _correlation(both)
    difference = float(means[0] - means[1])
    below = _root(low_1**2 - 2 * correlation * low_1 * high_2 + high_2**2)
    above = _root(high_1**2 - 2 * correlation * high_1 * low_2 + low_2**2)
    return Estimate(difference, difference - below, difference + above)


def ratio_estimate(first: Float64, second: Float64) -> Estimate:
    """Return the mean of first divided by the mean of second, over the same queries, with its interval.

    The ratio is 1 + (gains - losses) / second. Gains and losses, query by query, are shares whose intervals
    hold also where few queries gain or lose; they are combined with that of the second mean by their
    correlation, as in `paired_estimate`.

    Parameters
    ----------
    first, second : ndarray of shape (n_queries,), float64
        The shares of the same queries, from 0 to 1.

    Returns
    -------
    Estimate
        All is NaN if the second mean is 0.
    """
    whole = float(second.mean())
    if not whole > 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    gained = paired_estimate(np.maximum(first - second, 0), np.maximum(second - first, 0))
    lows, highs = _limits(second[:, None])
    beneath, beyond = whole - float(lows[0]), float(highs[0]) - whole
    change = gained.mean / whole
    # How far the second mean's interval moves the change, down and up, and how it goes with the gains.
    down, up = (change * beyond, change * beneath) if change > 0 else (-change * beneath, -change * beyond)
    correlation = np.sign(change) * _correlation(np.column_stack([first - second, second]))
    low, high = gained.mean - gained.low, gained.high - gained.mean
    below = _root(low**2 - 2 * correlation * low * down + down**2) / whole
    above = _root(high**2 - 2 * correlation * high * up + up**2) / whole
    return Estimate(1 + change, max(0.0, 1 + change - below), 1 + change + above)


def _correlation(both: Float64) -> float:
    """Return the correlation of two columns, 0 if one of them doesn't vary."""
    centred = both - both.mean(axis=0)
    spread = float(np.sqrt((centred**2).sum(axis=0).prod()))
    return float(centred.prod(axis=1).sum() / spread) if spread > 0 else 0.0


def _root(value: float) -> float:
    return float(np.sqrt(max(value, 0.0)))


def _limits(values: Float64) -> tuple[Float64, Float64]:
    """Return the ends of the interval of each column's mean."""
    q, columns = values.shape
    if q < 2:
        return np.zeros(columns), np.ones(columns)
    mean = values.mean(axis=0)
    binary = mean * (1 - mean)
    # The design effect: how much less the shares spread than yes-or-no answers of the same mean.
    effect = np.divide(values.var(axis=0, ddof=1), binary, out=np.ones(columns), where=binary > 0)
    telling = np.minimum((values < 1).sum(axis=0), (values > 0).sum(axis=0))
    trust = telling / (telling + _DOUBT)
    effect = np.clip(effect * trust + 1 - trust, 1e-6, 1)
    n = q / effect * (ndtri(1 - _TAIL) / stdtrit(q - 1, 1 - _TAIL)) ** 2
    right = mean * n
    low = np.where(mean > 0, betaincinv(np.where(mean > 0, right, 1), n - right + 1, _TAIL), 0)
    high = np.where(mean < 1, betaincinv(right + 1, np.where(mean < 1, n - right, 1), 1 - _TAIL), 1)
    # Rounding of the mean itself must not put it outside.
    return np.minimum(low, mean), np.maximum(high, mean)
