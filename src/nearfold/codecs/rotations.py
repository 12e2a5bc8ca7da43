"""Rotations that make dimensions ready for a quantiser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32
from nearfold._utils.progress import stage
from nearfold._utils.sampling import sampled_rows
from nearfold.codecs.quantizers.product import centroids_of, nearest_centroids

__all__ = ["balanced_rotation", "opq_rotation", "random_rotation"]

# Rounds of OPQ: from a balanced start the codes change little after these.
_OPQ_ROUNDS = 25
# More rows than these don't change the rotation; faiss takes as many.
_OPQ_ROWS = 1 << 16


def random_rotation(width: int, seed: int) -> Float32:
    """Return a uniformly drawn rotation, shape (width, width)."""
    gauss = np.random.default_rng(seed).standard_normal((width, width))
    axes, triangle = np.linalg.qr(gauss)
    return np.ascontiguousarray(axes * np.sign(np.diag(triangle)), np.float32)


def balanced_rotation(vectors: Float32, sizes: Sequence[int]) -> Float32:
    """Return the principal axes of vectors (n, m), dealt to groups of dimensions of equal importance.

    Groups get axes, largest variance first, so that the products of their variances are near each
    other (Ge, He, Ke, Sun: Optimized Product Quantization, CVPR 2013, parametric solution).

    Parameters
    ----------
    vectors
        Shape (n, m).
    sizes
        The dimensions of each group; their sum, at most m, is the number of axes kept.
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


def opq_rotation(vectors: Float32, groups: int, width: int, seed: int = 0, budget: float = 1.0) -> Float32:
    """Return the rotation to `width` dimensions that product quantisation of `groups` bytes loses least by.

    Ge, He, Ke, Sun, CVPR 2013: from the parametric solution, one step of k-means in each group and one
    orthogonal Procrustes problem in turn. faiss's OPQMatrix takes several steps of k-means a round, which in
    four dimensions are slow there. `budget` is the share of the rounds that are done.
    """
    n = len(vectors)
    rows = np.ascontiguousarray(vectors[sampled_rows(n, _OPQ_ROWS, seed)] if n > _OPQ_ROWS else vectors)
    each = width // groups
    rotation = balanced_rotation(rows, [each] * groups)
    codebooks: list[Float32] = []
    rounds = max(1, round(budget * _OPQ_ROUNDS))
    with stage("rotation", rounds, "rounds") as advance:
        for _ in range(rounds):
            images = rows @ rotation.T
            for g in range(groups):
                part = slice(g * each, (g + 1) * each)
                own = images[:, part]
                if len(codebooks) == g:
                    codebooks.append(centroids_of(own, seed + g, budget))
                codes = nearest_centroids(own, codebooks[g])
                codebooks[g] = _means(own, codes, codebooks[g])
                images[:, part] = codebooks[g][codes]
            left, _, right = np.linalg.svd(np.asarray(rows.T @ images, np.float64), full_matrices=False)
            rotation = np.ascontiguousarray((left @ right).T, np.float32)
            advance(1)
    return rotation


def _means(vectors: Float32, codes: npt.NDArray[np.int64], before: Float32) -> Float32:
    """Return the mean of each code's vectors, shape (k, s); what was there before where it has none."""
    counts = np.bincount(codes, minlength=len(before))
    sums = np.stack([np.bincount(codes, column, len(before)) for column in vectors.T], axis=1)
    means = sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, before).astype(np.float32)
