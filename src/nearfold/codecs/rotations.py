"""Rotations that make dimensions ready for a quantiser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nearfold._utils.arrays import Float32

__all__ = ["balanced_rotation", "random_rotation"]


def random_rotation(width: int, seed: int) -> Float32:
    """Return a rotation drawn uniformly, of shape (width, width), float32."""
    gauss = np.random.default_rng(seed).standard_normal((width, width))
    axes, triangle = np.linalg.qr(gauss)
    return np.ascontiguousarray(axes * np.sign(np.diag(triangle)), np.float32)


def balanced_rotation(vectors: Float32, sizes: Sequence[int]) -> Float32:
    """Return the principal axes of vectors (n, m), dealt to groups of dimensions of equal importance.

    Groups get axes, largest variance first, so that the products of their variances are near each
    other (Ge, He, Ke, Sun: Optimized Product Quantization, CVPR 2013, parametric solution).

    Parameters
    ----------
    vectors : ndarray of shape (n, m), float32
        The vectors.
    sizes : sequence of int
        The dimensions of each group; their sum, at most m, is the number of axes kept.

    Returns
    -------
    ndarray of shape (sum of sizes, m), float32
        Orthonormal rows.
    """
    covariance = np.cov(vectors, rowvar=False, dtype=np.float64).reshape(vectors.shape[1], -1)
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = variances[::-1], axes.T[::-1]
    floor = max(variances[0], np.finfo(np.float64).tiny) * 1e-9
    gains = np.log(np.maximum(variances, floor) / floor) + 1e-6
    room, load = np.array(sizes), np.zeros(len(sizes))
    dealt: list[list[int]] = [[] for _ in sizes]
    for axis in range(sum(sizes)):
        group = int(np.argmin(np.where(room > 0, load, np.inf)))
        dealt[group].append(axis)
        room[group] -= 1
        load[group] += gains[axis]
    return np.ascontiguousarray(axes[[axis for group in dealt for axis in group]], np.float32)
