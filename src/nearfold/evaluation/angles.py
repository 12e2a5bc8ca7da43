"""How a fold's subspace lies to another, and how far its axes are from orthogonal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from nearfold._utils.arrays import Float32, Float64

__all__ = ["gram_distance", "principal_angles"]


def principal_angles(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Float64:
    """Return the principal angles between the row spaces of two weights (Bjorck and Golub 1973).

    Parameters
    ----------
    first, second : ndarray of shape (m, d) and (p, d)
        The weights.

    Returns
    -------
    ndarray of shape (min(m, p),), float64
        The angles in radians from 0 (a shared direction) to pi / 2, falling.
    """
    angles: Float64 = scipy.linalg.subspace_angles(
        np.asarray(first, np.float64).T, np.asarray(second, np.float64).T
    )
    return angles


def gram_distance(weight: Float32) -> float:
    """Return how far the rows of a weight are from orthogonal rows of one length.

    Parameters
    ----------
    weight : ndarray of shape (m, d), float32
        The weight W.

    Returns
    -------
    float
        |W W^T / s - I|_F / sqrt(m), where s is the mean of the diagonal of W W^T. It is 0 for orthonormal
        rows times a constant, and NaN if W is zero.
    """
    gram = weight.astype(np.float64) @ weight.astype(np.float64).T
    m = len(gram)
    scale = np.trace(gram) / m
    if scale == 0:
        return float("nan")
    return float(np.linalg.norm(gram / scale - np.eye(m)) / np.sqrt(m))
