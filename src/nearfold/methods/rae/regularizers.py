"""Penalties of RAE, which are Frobenius as published and four other choices.

The published loss is the mean over the d elements of (W_d W_e x - x)^2, plus (lambda / 2) R. Times d,
with mu = lambda d / 2, that is E |W_d W_e x - x|^2 + mu R:

frobenius      R = |W_e|^2 + |W_d|^2, Adam's coupled weight decay
nuclear        R = sum of the singular values of W_e and of W_d
spectral       R = sigma_max(W_e)^2 + sigma_max(W_d)^2
orthogonality  R = |W_e W_e^T - I|^2
laplacian      R = tr(W_e S W_e^T) + |W_d|^2, S the second moments of differences x_i - x_j along the
               edges of a neighbour graph, scaled to trace d: neighbours are drawn together, and
               S = I would be frobenius

The first four are invariant under rotation of the data, so that an optimum lies along the principal
axes of E[x x^T] (Kunin et al. 2019, arXiv 1901.08168, for frobenius) and what is left is one problem
a mode: with energy c and singular value s of both W_e and W_d, the cost is c (1 - s^2)^2 + mu R(s).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import scipy.linalg

from nearfold._utils.arrays import Float32
from nearfold.errors import ParameterError

__all__ = [
    "REGULARIZERS",
    "Penalty",
    "Regularizer",
    "check_regularizer",
    "laplacian_optimum",
    "penalty",
    "scales",
    "value",
    "value_of_scales",
]

Float64 = npt.NDArray[np.float64]

Regularizer = Literal["frobenius", "nuclear", "spectral", "orthogonality", "laplacian"]
REGULARIZERS: tuple[Regularizer, ...] = get_args(Regularizer)

Penalty: TypeAlias = Callable[[Float32, Float32, Float32, Float32], None]
"""A function of encoder, transposed decoder and the gradients of both, which it adds to in place."""

_SMALL = 1e-12


def check_regularizer(name: str) -> Regularizer:
    """Return `name` if it is one of REGULARIZERS.

    Raises
    ------
    ParameterError
        It is none of them.
    """
    for known in REGULARIZERS:
        if name == known:
            return known
    raise ParameterError(f"regularizer={name!r} is unknown; use one of {', '.join(REGULARIZERS)}")


def value(name: Regularizer, encoder: Float64, decoder: Float64, S: Float64 | None = None) -> float:
    """Return the penalty R of an autoencoder.

    Parameters
    ----------
    name : str
        Penalty, one of `REGULARIZERS`.
    encoder : ndarray of shape (m, d), float64
        W_e.
    decoder : ndarray of shape (d, m), float64
        W_d.
    S : ndarray of shape (d, d), float64, optional
        Second moments of neighbours' differences, which "laplacian" needs.

    Returns
    -------
    float
    """
    if name == "frobenius":
        return float(np.square(encoder).sum() + np.square(decoder).sum())
    if name == "orthogonality":
        return float(np.square(encoder @ encoder.T - np.eye(len(encoder))).sum())
    if name == "laplacian":
        return float(np.sum(encoder @ _given(S) * encoder) + np.square(decoder).sum())
    singular = [np.linalg.svd(W, compute_uv=False) for W in (encoder, decoder)]
    if name == "nuclear":
        return float(sum(s.sum() for s in singular))
    return float(sum(s[0] ** 2 for s in singular))


def scales(name: Regularizer, energies: Float64, mu: float) -> Float64:
    """Return the singular values of the optimum, given the energies c of the m largest modes.

    Parameters
    ----------
    name : str
        Penalty, any but "laplacian", which mixes the modes.
    energies : ndarray of shape (m,), float64
        Eigenvalues of E[x x^T], at least 0 and falling.
    mu : float
        Weight of the penalty, at least 0.

    Returns
    -------
    ndarray of shape (m,), float64
        It is 0 where the penalty has killed a mode.
    """
    # A mode without energy is dead at any mu, 0 included: 0 / 0 never arises.
    alive = energies > 0
    shrinkage = np.divide(mu, energies, out=np.full_like(energies, np.inf), where=alive)
    if name == "frobenius":
        # c (1 - s^2)^2 + 2 mu s^2 is least at s^2 = 1 - mu / c.
        return np.sqrt(np.maximum(0.0, 1.0 - shrinkage))
    if name == "nuclear":
        # c (1 - s^2)^2 + 2 mu s is level where s - s^3 = mu / (2 c); of the roots the largest is
        # the minimum, by the cosine formula; below s^2 = 2/3 it costs more than s = 0.
        inside = np.minimum(1.0, 0.75 * np.sqrt(3) * shrinkage)
        root = 2 / np.sqrt(3) * np.cos(np.arccos(-inside) / 3)
        return np.where(root**2 > 2 / 3, root, 0.0)
    if name == "spectral":
        # Below the largest singular value others are free to grow to it, so all are equal.
        total = energies.sum()
        return np.where(alive, np.sqrt(max(0.0, 1.0 - mu / total)) if total > 0 else 0.0, 0.0)
    # Orthogonality: orthonormal rows cost nothing, and none keep more energy than the principal.
    return np.where(alive, 1.0, 0.0)


def value_of_scales(name: Regularizer, singular: Float64) -> float:
    """Return R of an encoder and a decoder of the same singular values and axes.

    Parameters
    ----------
    name : str
        Penalty, any but "laplacian".
    singular : ndarray of shape (m,), float64
        Singular values.

    Returns
    -------
    float
    """
    squares = singular**2
    if name == "frobenius":
        return float(2 * squares.sum())
    if name == "nuclear":
        return float(2 * singular.sum())
    if name == "spectral":
        return float(2 * squares.max())
    return float(np.square(squares - 1).sum())


def laplacian_optimum(
    C: Float64, S: Float64, mu: float, start: Float64, *, n_steps: int = 2000, tolerance: float = 1e-10
) -> tuple[Float64, Float64]:
    """Return the encoder and the decoder that minimise the objective of "laplacian".

    Each is a ridge regression given the other; they alternate until the loss stands still.

    Parameters
    ----------
    C : ndarray of shape (d, d), float64
        E[x x^T].
    S : ndarray of shape (d, d), float64
        Second moments of neighbours' differences, positive definite.
    mu : float
        Weight of the penalty, above 0.
    start : ndarray of shape (m, d), float64
        First encoder.
    n_steps : int, default=2000
        Number of alternations at most.
    tolerance : float, default=1e-10
        Relative fall of the loss at which to stop.

    Returns
    -------
    encoder : ndarray of shape (m, d), float64
    decoder : ndarray of shape (d, m), float64
    """
    m, d = start.shape
    # In the basis U that makes S the identity and C diagonal, the encoder's regression falls apart
    # into one small system a column.
    ratios, U = scipy.linalg.eigh(C, S)
    CU = C @ U
    encoder, previous = start.astype(np.float64), np.inf
    decoder = np.zeros((d, m))
    for _ in range(n_steps):
        ZC = encoder @ C
        decoder = scipy.linalg.solve(ZC @ encoder.T + mu * np.eye(m), ZC, assume_a="pos").T
        weights, Q = np.linalg.eigh(decoder.T @ decoder)
        columns = (Q.T @ decoder.T @ CU) / (np.maximum(weights, 0)[:, None] * ratios + mu)
        encoder = Q @ columns @ U.T
        product = decoder @ encoder
        error = float(np.sum(product @ C * product) - 2 * np.sum(product * C) + np.trace(C))
        loss = error + mu * value("laplacian", encoder, decoder, S)
        if previous - loss <= tolerance * max(loss, _SMALL):
            break
        previous = loss
    return encoder, decoder


def penalty(name: Regularizer, weight: float, S: Float64 | None = None) -> Penalty:
    """Return a function that adds `weight` times half the gradient of R to an autoencoder's gradients.

    Parameters
    ----------
    name : str
        Penalty, one of `REGULARIZERS`.
    weight : float
        Lambda, divided by whatever the gradients are scaled by.
    S : ndarray of shape (d, d), float64, optional
        Second moments of neighbours' differences, which "laplacian" needs.

    Returns
    -------
    Penalty
    """
    factor = np.float32(weight)
    if name == "laplacian":
        metric = _given(S).astype(np.float32)

        def add(encoder: Float32, decoder_t: Float32, for_encoder: Float32, for_decoder_t: Float32) -> None:
            for_encoder += factor * (encoder @ metric)
            for_decoder_t += factor * decoder_t

    elif name == "orthogonality":

        def add(encoder: Float32, decoder_t: Float32, for_encoder: Float32, for_decoder_t: Float32) -> None:  # noqa: ARG001
            excess = encoder @ encoder.T
            excess[np.diag_indices_from(excess)] -= 1
            for_encoder += 2 * factor * (excess @ encoder)

    else:
        slopes: dict[str, Callable[[Float32], Float32]] = {
            "frobenius": lambda W: W,
            "nuclear": _half_polar,
            "spectral": _largest_mode,
        }
        slope = slopes[name]

        def add(encoder: Float32, decoder_t: Float32, for_encoder: Float32, for_decoder_t: Float32) -> None:
            for_encoder += factor * slope(encoder)
            for_decoder_t += factor * slope(decoder_t)

    return add


def _half_polar(W: Float32) -> Float32:
    """Return U V^T / 2, which is half the slope of the sum of singular values."""
    values, Q = np.linalg.eigh(W @ W.T)
    modes: Float32 = Q.T @ W
    modes /= 2 * np.sqrt(np.maximum(values, np.float32(_SMALL)))[:, None]
    slope: Float32 = Q @ modes
    return slope


def _largest_mode(W: Float32) -> Float32:
    """Return sigma_1 u_1 v_1^T, which is half the slope of the square of the largest singular value."""
    _, Q = np.linalg.eigh(W @ W.T)
    top = Q[:, -1]
    mode: Float32 = np.outer(top, top @ W)
    return mode


def _given(S: Float64 | None) -> Float64:
    if S is None:
        raise ParameterError("regularizer='laplacian' needs the moments of neighbours' differences")
    return S
