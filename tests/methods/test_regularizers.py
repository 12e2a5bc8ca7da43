from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from nearfold import PCA, RAE, Moments
from nearfold.errors import NearfoldError
from nearfold.methods.rae.exact import exact_path
from nearfold.methods.rae.regularizers import (
    REGULARIZERS,
    Regularizer,
    laplacian_optimum,
    penalty,
    scales,
    value,
)
from nearfold.scan.neighbors import neighbor_differences


def data(d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of falling energy off the origin, and their neighbours' differences."""
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((60, d)) * np.geomspace(1, 0.3, d) + 0.2).astype(np.float32)
    return X, neighbor_differences(X, 4, "l2", rng)


@given(
    name=st.sampled_from(REGULARIZERS),
    d=st.integers(2, 6),
    m=st.integers(1, 3),
    weight_decay=st.sampled_from([1e-3, 0.05, 0.3]),
    seed=st.integers(0, 100),
)
@example(name="nuclear", d=4, m=2, weight_decay=0.3, seed=66)
@settings(max_examples=60, deadline=None)
def test_exact_is_what_an_independent_solver_finds(
    name: Regularizer, d: int, m: int, weight_decay: float, seed: int
) -> None:
    m = min(m, d - 1)
    X, S = data(d, seed)
    (fold,) = exact_path(Moments.of(X), m, [weight_decay], name, S)
    wide = X.astype(float)

    def loss(flat: np.ndarray) -> float:
        encoder, decoder = flat[: m * d].reshape(m, d), flat[m * d :].reshape(d, m)
        error = ((wide @ encoder.T @ decoder.T - wide) ** 2).mean()
        return float(error + weight_decay / 2 * value(name, encoder, decoder, S))

    rng = np.random.default_rng(seed)
    # Nothing leads a solver to zero, where a norm has its kink and a strong penalty its optimum.
    starts = [np.zeros(2 * m * d), *(rng.standard_normal(2 * m * d) * 0.5 for _ in range(5))]
    found = min(minimize(loss, start, method="BFGS").fun for start in starts)
    # Nobody finds less; and what the solver finds is as little, kinks of the norms allowed for.
    assert fold.loss <= found + 1e-6
    assert fold.loss >= found - 5e-3


@pytest.mark.parametrize("name", REGULARIZERS)
def test_without_penalty_it_is_pcas_subspace(name: Regularizer) -> None:
    X, S = data(7, 1)
    (fold,) = exact_path(Moments.of(X), 3, [1e-9], name, S)
    pca = PCA(3, center=False).fit(X).encoder_.weight.astype(float)
    _, _, axes = np.linalg.svd(fold.weight, full_matrices=False)
    np.testing.assert_allclose(axes.T @ axes, pca.T @ pca, atol=1e-3)


@pytest.mark.parametrize("mu", [1e-3, 0.05])
def test_laplacian_of_an_identity_is_frobenius(mu: float) -> None:
    X, _ = data(6, 2)
    moments = Moments.of(X)
    (frobenius,) = exact_path(moments, 2, [2 * mu / 6])
    start = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 2)))[0].T
    encoder, decoder = laplacian_optimum(moments.uncentered, np.eye(6), mu, start, n_steps=20_000)
    np.testing.assert_allclose(
        decoder @ encoder, frobenius.weight.T @ frobenius.weight, atol=2e-4 * np.abs(decoder).max()
    )


def test_spectral_and_orthogonality_only_rescale_pca() -> None:
    """Their optimum keeps the neighbours that uncentred PCA keeps, whatever lambda."""
    X, _ = data(7, 3)
    axes = PCA(3, center=False).fit(X).encoder_.weight
    for name in ("spectral", "orthogonality"):
        W = RAE(3, solver="exact", regularizer=name, weight_decay=0.05).fit(X).encoder_.weight
        ratio = W / axes
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_nuclear_kills_modes_at_once() -> None:
    energies = np.array([1.0, 0.5, 0.1])
    kept = scales("nuclear", energies, 0.3)
    assert kept[0] ** 2 > 2 / 3
    assert kept[2] == 0
    # At the edge of life both choices cost the same: no mode lives below s^2 = 2/3.
    for c in np.linspace(0.01, 1, 200):
        (s,) = scales("nuclear", np.array([c]), 0.3)
        assert s == 0 or s**2 > 2 / 3


@given(
    name=st.sampled_from(REGULARIZERS),
    m=st.integers(1, 4),
    d=st.integers(5, 8),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_penalty_is_half_the_slope(name: Regularizer, m: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoder, decoder_t = rng.standard_normal((2, m, d))
    S = data(d, seed)[1]
    slopes = np.zeros((2, m, d))
    penalty(name, 1.0, S)(encoder, decoder_t, *slopes)  # type: ignore[arg-type]
    for which, matrix in enumerate((encoder, decoder_t)):
        numeric = np.zeros_like(matrix)
        for where in np.ndindex(m, d):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [encoder.copy(), decoder_t.copy()]
                moved[which][where] += step
                ends.append(value(name, moved[0], moved[1].T, S))
            numeric[where] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(2 * slopes[which], numeric, atol=2e-3 * max(1, np.abs(numeric).max()))


@pytest.mark.parametrize("name", REGULARIZERS)
def test_adam_comes_near_the_optimum(name: Regularizer, clusters: np.ndarray) -> None:
    def loss(rae: RAE) -> float:
        return float(rae.fit(clusters).encoder_.facts["loss"])

    adam = RAE(5, regularizer=name, weight_decay=1e-4, n_steps=3000, batch_size=300)
    exact = RAE(5, regularizer=name, weight_decay=1e-4, solver="exact")
    # Adam's is without the penalty, which at this lambda is small.
    assert loss(adam) < 1.2 * loss(exact)


def test_bad_parameters(clusters: np.ndarray) -> None:
    for bad, says in [
        ({"regularizer": "l1"}, "regularizer='l1'"),
        ({"regularizer": "laplacian", "graph_neighbors": 300}, "300 neighbours"),
        ({"regularizer": "laplacian", "graph_neighbors": 0}, "graph_neighbors"),
        ({"regularizer": "laplacian", "weight_decay": 0, "solver": "exact"}, "weight_decay=0"),
        ({"weight_decay": "automatic"}, "weight_decay='automatic'"),
    ]:
        with pytest.raises(NearfoldError, match=says):
            RAE(4, **bad).fit(clusters)  # type: ignore[arg-type]
    with pytest.raises(NearfoldError, match="equal vectors"):
        RAE(2, regularizer="laplacian").fit(np.ones((50, 5)))
