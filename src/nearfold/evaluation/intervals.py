"""Means over queries with bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "bootstrap_means", "estimate"]

_RESAMPLES = 2000
_LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over queries and its 95% percentile bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap_means(values: npt.NDArray[np.float64], seed: int = 0) -> npt.NDArray[np.float64]:
    """Return means of `values` (q, c) over 2,000 resamples of the q queries: shape (2000, c).

    The same seed draws the same resamples, so differences of two columns are paired.
    """
    n = len(values)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    means: npt.NDArray[np.float64] = weights @ values / n
    return means


def estimate(values: npt.NDArray[np.float64]) -> list[Estimate]:
    """Return the mean of each column of `values` (q, c) with its interval."""
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(bootstrap_means(values), [tail, 1 - tail], axis=0)
    mean = values.mean(axis=0)
    return [Estimate(float(m), float(a), float(b)) for m, a, b in zip(mean, low, high, strict=True)]
