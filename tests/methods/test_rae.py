from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from nearfold import PCA, RAE, Moments
from nearfold.errors import NearfoldError, NearfoldWarning
from nearfold.evaluation.spectrum import spectrum
from nearfold.methods.rae.exact import exact_path
from nearfold.methods.rae.gradient import (
    Autoencoder,
    cosine_rates,
    draw_batches,
    initial_autoencoder,
    train_autoencoder,
)
from nearfold.methods.rae.regularizers import REGULARIZERS


def published_loss(flat: np.ndarray, X: np.ndarray, m: int, weight_decay: float) -> float:
    """Return the loss as the paper's code has it: mean squared error, Adam's coupled decay."""
    d = X.shape[1]
    encoder, decoder = flat[: m * d].reshape(m, d), flat[m * d :].reshape(d, m)
    error = ((X @ encoder.T @ decoder.T - X) ** 2).mean()
    return float(error + weight_decay / 2 * (flat**2).sum())


@given(
    d=st.integers(2, 6),
    m=st.integers(1, 3),
    weight_decay=st.sampled_from([0.0, 1e-3, 0.05, 0.3]),
    seed=st.integers(0, 100),
)
@settings(max_examples=25, deadline=None)
def test_exact_is_the_numerical_optimum(d: int, m: int, weight_decay: float, seed: int) -> None:
    m = min(m, d - 1)
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((40, d)) * np.geomspace(1, 0.3, d) + 0.2).astype(np.float32)
    (fold,) = exact_path(Moments.of(X), m, [weight_decay])
    X64 = X.astype(float)
    both = np.concatenate([fold.weight.ravel(), fold.weight.T.ravel()])
    assert published_loss(both, X64, m, weight_decay) == pytest.approx(fold.loss, rel=1e-6)
    found = min(
        minimize(
            published_loss, rng.standard_normal(2 * m * d) * 0.5, (X64, m, weight_decay), method="BFGS"
        ).fun
        for _ in range(3)
    )
    assert fold.loss <= found + 1e-6
    assert fold.loss == pytest.approx(found, abs=2e-4)


def test_path_is_monotone_and_starts_at_pca(clusters: np.ndarray) -> None:
    lambdas = [0.0, 1e-4, 1e-3, 1e-2, 1e-1]
    path = list(exact_path(Moments.of(clusters), 5, lambdas))
    np.testing.assert_allclose(path[0].scales, 1)
    pca = PCA(5, center=False).fit(clusters).encoder_.weight
    np.testing.assert_allclose(path[0].weight.T @ path[0].weight, pca.T @ pca, atol=1e-4)
    for smaller, larger in pairwise(path):
        assert (smaller.scales >= larger.scales).all()
        assert smaller.loss <= larger.loss
    alone = [next(exact_path(Moments.of(clusters), 5, [value])) for value in lambdas]
    for together, single in zip(path, alone, strict=True):
        np.testing.assert_array_equal(together.weight, single.weight)


def test_kappa_is_one_without_penalty_and_grows(clusters: np.ndarray) -> None:
    kappas = [
        spectrum(RAE(5, solver="exact", weight_decay=value).fit(clusters).encoder_.weight).kappa
        for value in (0.0, 1e-3, 1e-2)
    ]
    assert kappas[0] == pytest.approx(1, abs=1e-5)
    assert kappas[0] < kappas[1] < kappas[2]


def test_dead_modes_are_said() -> None:
    X = np.diag([3.0, 2.0, 0.1, 0.01])  # energies 9/4, 1, .0025 and .000025
    with pytest.warns(NearfoldWarning, match="zeroes 2 of 3 axes") as told:
        fold = RAE(3, solver="exact", weight_decay=0.6).fit(X)
    assert told[0].filename == __file__, "a warning names the line that called fit"
    assert fold.encoder_.facts["dead_modes"] == 2
    assert np.isfinite(fold.encoder_.weight).all()
    assert spectrum(fold.encoder_.weight).kappa == np.inf
    with pytest.raises(NearfoldError, match="zeroes all"):
        RAE(3, solver="exact", weight_decay=1e6).fit(X)
    with pytest.raises(NearfoldError, match="zeroes all"):
        RAE(2, solver="exact", weight_decay=0.0).fit(np.zeros((9, 4)))


@pytest.mark.parametrize(("d", "m", "threads"), [(12, 4, 1), (40, 33, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_adam_descends_the_published_gradient(
    d: int, m: int, threads: int, bias: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tiny step moves each weight against the sign of its numerical derivative."""
    monkeypatch.setattr("nearfold.methods.rae.gradient.blas_threads", lambda: threads)
    X = rng.standard_normal((30, d)).astype(np.float32)
    start = initial_autoencoder(d, m, rng, bias=bias)
    rows = np.arange(30)[None, :]
    rate, weight_decay = 1e-4, 0.1
    trained, _ = train_autoencoder(X, start, rows, np.array([rate]), weight_decay)

    def loss(ae: Autoencoder) -> float:
        parts = [ae.encoder, ae.decoder, *([ae.encoder_bias, ae.decoder_bias] if bias else [])]
        z = X @ ae.encoder.T.astype(float) + (ae.encoder_bias if bias else 0)
        error = z @ ae.decoder.T.astype(float) + (ae.decoder_bias if bias else 0) - X
        return float((error**2).mean() + weight_decay / 2 * sum((p.astype(float) ** 2).sum() for p in parts))

    names = ["encoder", "decoder", *(["encoder_bias", "decoder_bias"] if bias else [])]
    for name in names:
        before, after = getattr(start, name), getattr(trained, name)
        for flat in rng.choice(before.size, min(10, before.size), replace=False):
            where = np.unravel_index(flat, before.shape)
            moved = {n: np.array(getattr(start, n), float) for n in names}
            moved[name][where] += 1e-5
            derivative = (loss(Autoencoder(**moved)) - loss(start)) / 1e-5
            if abs(derivative) > 1e-3:
                # Adam's first step has the length of the rate, whatever the gradient's.
                assert after[where] - before[where] == pytest.approx(-rate * np.sign(derivative), rel=0.05)


def test_thread_count_changes_rounding_only(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = rng.standard_normal((200, 40)).astype(np.float32)
    start = initial_autoencoder(40, 32, rng, bias=True)
    batches, rates = draw_batches(200, 64, 150, rng), cosine_rates(150, 1e-3, 1e-5)
    results = []
    for threads in (1, 2, 4):
        monkeypatch.setattr("nearfold.methods.rae.gradient.blas_threads", lambda n=threads: n)
        results.append(train_autoencoder(X, start, batches, rates, 1e-4)[0])
    for other in results[1:]:
        for name in ("encoder", "decoder", "encoder_bias", "decoder_bias"):
            np.testing.assert_allclose(getattr(results[0], name), getattr(other, name), atol=2e-5)


def test_a_failure_in_any_thread_ends_all(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfold.methods.rae.gradient.blas_threads", lambda: 3)
    X = rng.standard_normal((50, 40)).astype(np.float32)
    start = initial_autoencoder(40, 32, rng, bias=False)
    calls = []

    def broken(_self: object, _rate: float) -> None:
        calls.append(1)
        if len(calls) == 20:
            raise MemoryError("no room")

    monkeypatch.setattr("nearfold.methods.adam.Adam.step", broken)
    with pytest.raises(MemoryError, match="no room"):
        train_autoencoder(X, start, draw_batches(50, 10, 500, rng), cosine_rates(500, 1e-3, 1e-5), 0.0)


def test_adam_comes_near_the_optimum(clusters: np.ndarray) -> None:
    found = RAE(6, weight_decay=0.0, n_steps=3000).fit(clusters).encoder_
    best = RAE(6, weight_decay=0.0, solver="exact").fit(clusters).encoder_
    assert found.facts["loss"] < 1.2 * best.facts["loss"]


def test_constant_columns_leave_no_subnormal_weights(rng: np.random.Generator) -> None:
    X = rng.standard_normal((300, 30)).astype(np.float32)
    X[:, :5] = 0
    W = RAE(8, weight_decay=1e-4).fit(X).encoder_.weight
    assert not ((np.abs(W) < np.finfo(np.float32).tiny) & (W != 0)).any()


def test_batches_are_shuffles(rng: np.random.Generator) -> None:
    batches = draw_batches(10, 4, 5, rng)
    assert batches.shape == (5, 4)
    np.testing.assert_array_equal(np.sort(batches.ravel()[:10]), np.arange(10))
    assert draw_batches(3, 128, 2, rng).shape == (2, 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"solver": "sgd"},
        {"weight_decay": -1},
        {"weight_decay": float("nan")},
        {"n_steps": 0},
        {"batch_size": 2.5},
        {"learning_rate": 0},
        {"solver": "exact", "bias": True},
    ],
)
def test_bad_parameters(bad: dict[str, object], clusters: np.ndarray) -> None:
    with pytest.raises(NearfoldError, match=next(reversed(bad))):
        RAE(4, **bad).fit(clusters)  # type: ignore[arg-type]


def test_the_metric_counts_where_neighbours_are_looked_for() -> None:
    assert RAE(weight_decay="auto").learns_metric
    for name in REGULARIZERS:
        assert RAE(weight_decay=1e-5, regularizer=name).learns_metric == (name == "laplacian")


def test_divergence_is_an_error() -> None:
    X = np.full((50, 6), 1e18, np.float32) * np.random.default_rng(0).standard_normal((50, 1)).astype(
        np.float32
    )
    with np.errstate(all="ignore"), pytest.raises(NearfoldError, match="diverged"):
        RAE(2, n_steps=50).fit(X * 1e10)
