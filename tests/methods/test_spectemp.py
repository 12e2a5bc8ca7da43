"""Spectral tempering: between PCA and whitening, by an exponent that the spectrum gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nearfold import PCA
from nearfold.errors import ParameterError
from nearfold.methods.spectemp import SpectralTempering, knee, tempering
from nearfold.methods.whitening import Whitening

SPECTRA = arrays.arrays(
    np.float64, st.integers(2, 60), elements=st.floats(0, 1e6, allow_subnormal=False)
).map(lambda values: np.sort(values)[::-1])


def test_gamma_0_is_pca_and_1_is_whitening(clusters: np.ndarray) -> None:
    pca, plain = PCA(5).fit(clusters), SpectralTempering(5, gamma=0).fit(clusters)
    np.testing.assert_allclose(plain.transform(clusters), pca.transform(clusters), atol=1e-4)
    white, full = Whitening(5).fit_transform(clusters), SpectralTempering(5, gamma=1).fit(clusters)
    first = np.sqrt(pca.explained_variance_[0] * (len(clusters) - 1) / len(clusters))
    np.testing.assert_allclose(full.transform(clusters), white * first, rtol=1e-3, atol=1e-3)


def test_without_centring_it_is_uncentred_pca(clusters: np.ndarray) -> None:
    moved = clusters + 3
    fold = SpectralTempering(5, gamma=0, center=False).fit(moved)
    np.testing.assert_allclose(fold.components_, PCA(5, center=False).fit(moved).components_, atol=1e-5)
    assert fold.encoder_.bias is None
    assert fold.encoder_.method == "spectemp-uncentred"


def test_axes_are_scaled_by_the_power_of_their_variance(rng: np.random.Generator) -> None:
    X = rng.standard_normal((4000, 40)) * 0.85 ** np.arange(40)
    fold = SpectralTempering(20).fit(X)
    gamma = fold.encoder_.facts["gamma"]
    assert 0 < gamma < 1
    variances = PCA(20).fit(X).explained_variance_
    norms = np.linalg.norm(fold.components_, axis=1)
    np.testing.assert_allclose(norms, (variances / variances[0]) ** (-gamma / 2), rtol=1e-4)


def test_the_knee_of_a_bent_line() -> None:
    values = np.concatenate([np.linspace(10, 1, 7), np.linspace(0.95, 0, 20)])
    assert knee(values) == 6
    assert knee(np.ones(9)) == 0


def test_the_exponent_by_hand() -> None:
    # Of ten eigenvalues the last is noise: signal 20, 8, 4, 2, 1 and then 0 in units of it.
    values = np.array([21.0, 9, 5, 3, 2, 1, 1, 1, 1, 1])
    assert knee(values[:9] - 1) == 2
    assert [tempering(values, m) for m in (1, 2, 3, 4, 5, 6, 9)] == [1, 1, 1, 0.5, 0.25, 0, 0]


def test_the_first_clear_bend_counts() -> None:
    # Two bends, the second farther below the chord from (0, 10) to (9, 0).
    values = np.array([10.0, 5.5, 5.4, 5.3, 1.5, 0.6, 0.4, 0.2, 0.1, 0.0])
    assert knee(values) == 1
    assert knee(values, sensitivity=3.0) == 4


@given(values=SPECTRA, power=st.integers(0, 10))
def test_the_exponent_falls_with_more_axes_whatever_the_scale(values: np.ndarray, power: int) -> None:
    exponents = [tempering(values, m) for m in range(1, len(values) + 1)]
    assert all(0 <= exponent <= 1 for exponent in exponents)
    assert exponents == sorted(exponents, reverse=True)
    assert exponents == [tempering(values * 2.0**power, m) for m in range(1, len(values) + 1)]


def test_axes_without_variance_are_dead_and_not_infinite(rng: np.random.Generator) -> None:
    X = rng.standard_normal((50, 2)) @ rng.standard_normal((2, 9))
    fold = SpectralTempering(4, gamma=0.5).fit(X).encoder_
    assert np.isfinite(fold.weight).all()
    assert (fold.weight[2:] == 0).all()
    assert np.isfinite(SpectralTempering(2).fit_transform(np.ones((20, 5)))).all()


@pytest.mark.parametrize("gamma", [-0.1, 1.5, "most", float("nan")])
def test_bad_exponents(gamma: float, clusters: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="gamma="):
        SpectralTempering(2, gamma=gamma).fit(clusters)
