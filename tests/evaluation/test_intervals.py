"""Bootstrap intervals against what theory says of means."""

from __future__ import annotations

import numpy as np
import pytest

from nearfold.evaluation.intervals import bootstrap_means, estimate


def test_an_interval_holds_19_of_20_means(rng: np.random.Generator) -> None:
    values = rng.standard_normal((400, 3)) * [1, 2, 0] + [5, 0, 7]
    for entry, column in zip(estimate(values), values.T, strict=True):
        assert entry.mean == pytest.approx(column.mean())
        half = 1.96 * column.std() / np.sqrt(len(column))
        assert entry.low == pytest.approx(column.mean() - half, abs=0.1 * half)
        assert entry.high == pytest.approx(column.mean() + half, abs=0.1 * half)


def test_resamples_are_the_same_for_the_same_seed_so_that_columns_are_paired(
    rng: np.random.Generator,
) -> None:
    values = rng.standard_normal((50, 1))
    means = bootstrap_means(np.hstack([values, values + 1]))
    assert means.shape == (2000, 2)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1)
    np.testing.assert_allclose(means[:, :1], bootstrap_means(values))
    assert (bootstrap_means(values, seed=1) != means[:, :1]).any()
