"""Whitening: components of variance 1, without correlation."""

from __future__ import annotations

import numpy as np

from nearfold.methods.whitening import Whitening


def test_components_are_uncorrelated_and_of_variance_1(clusters: np.ndarray) -> None:
    z = Whitening(5).fit_transform(clusters).astype(np.float64)
    np.testing.assert_allclose(np.cov(z, rowvar=False, bias=True), np.eye(5), atol=1e-3)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)


def test_axes_without_variance_are_dead_and_not_infinite(rng: np.random.Generator) -> None:
    X = rng.standard_normal((50, 2)) @ rng.standard_normal((2, 9))
    fold = Whitening(4).fit(X).encoder_
    assert np.isfinite(fold.weight).all()
    assert (fold.weight[2:] == 0).all()
