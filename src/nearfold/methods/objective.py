"""The objective of NearFold, which keeps in every block who is near whom.

For a block of N vectors B, row i of P is the softmax of score(b_i, b_j) / tau over all j but i, by the scores
in d dimensions; Q is the same by the scores after folding. The loss is the mean over rows of KL(P || Q). The
score is the one that the folded vectors will be searched with.

Where a block is a query of another kind with its base rows, only the query's row counts (`anchors_only`):
nobody searches base rows with base rows there.

Where a fold is nested, the loss is a weighted sum over folds of the first dimensions, each scored by itself.

The gradient is analytic. With G = (Q - P) / (tau times the number of rows) for the scores and Z = B W^T,
dZ is (G + G^T) Z for "ip" and (G + G^T) Z - colsum(G) Z for "l2". For "cosine" dY is as for "ip" on
Y = Z / |Z|, and dZ = (dY - Y <dY, Y>) / |Z|. In the end dW = dZ^T B.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.warned import warn
from nearfold.errors import DataError

__all__ = [
    "block_scores",
    "check_told_apart",
    "distinguishes",
    "gradient",
    "loss",
    "loss_of_fold",
    "score_spread",
    "soft_neighbors",
    "softened",
    "spread_of",
]

# Keeps a vector that folds to zero from dividing by zero; far below any norm that matters.
_TINY = np.float32(1e-20)

# Scores that are spread by fewer roundings than this are in an order that is partly chance.
_BLUR = 64

_SHARED = "if all share a large part, subtract their mean from all, queries too, or use metric='l2'"


def block_scores(Y: Float32, metric: Metric) -> Float32:
    """Return the scores between the rows of each block; higher is nearer.

    Parameters
    ----------
    Y : ndarray of shape (b, N, m), float32
        Blocks; of norm 1 for "cosine".
    metric : {"cosine", "l2", "ip"}
        Inner product, or half the negative squared distance for "l2".

    Returns
    -------
    ndarray of shape (b, N, N), float32
    """
    scores: Float32 = np.matmul(Y, Y.transpose(0, 2, 1))
    if metric == "l2":
        half = 0.5 * np.einsum("bii->bi", scores)
        scores -= half[:, :, None]
        scores -= half[:, None, :]
    return scores


def score_spread(B: Float32, metric: Metric) -> float:
    """Return tau, the standard deviation of the scores between different rows of a block.

    Parameters
    ----------
    B : ndarray of shape (b, N, d), float32
        Blocks; of norm 1 for "cosine".
    metric : {"cosine", "l2", "ip"}
        Metric of the scores.

    Returns
    -------
    float
    """
    return spread_of(block_scores(B, metric))


def spread_of(scores: Float32) -> float:
    """Return the standard deviation of scores between different rows; 0 where a block has one row.

    Parameters
    ----------
    scores : ndarray of shape (b, N, N), float32
        Result of `block_scores`.

    Returns
    -------
    float
    """
    if scores.shape[1] < 2:
        return 0.0
    apart = ~np.eye(scores.shape[1], dtype=bool)
    return float(scores[:, apart].std(dtype=np.float64))


def soft_neighbors(Y: Float32, metric: Metric, tau: float) -> Float32:
    """Return the softmax of scores / tau over the other rows of each row's block.

    Parameters
    ----------
    Y : ndarray of shape (b, N, m), float32
        Blocks; of norm 1 for "cosine".
    metric : {"cosine", "l2", "ip"}
        Metric of the scores.
    tau : float
        Temperature, above 0.

    Returns
    -------
    ndarray of shape (b, N, N), float32
        Rows of sum 1 with a zero diagonal.
    """
    return softened(block_scores(Y, metric), tau)


def softened(scores: Float32, tau: float) -> Float32:
    """Turn scores of shape (b, N, N), in place, into their softmax; see `soft_neighbors`."""
    scores *= np.float32(1 / tau)
    own = np.arange(scores.shape[1])
    scores[:, own, own] = -np.inf
    scores -= scores.max(axis=2, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=2, keepdims=True)
    return scores


def _to_scored(Z: Float32, metric: Metric) -> Float32 | None:
    """Bring folded rows, in place, to what is scored, and return their norms before for "cosine"."""
    if metric != "cosine":
        return None
    norms: Float32 = np.sqrt(np.einsum("ij,ij->i", Z, Z))[:, None]
    norms += _TINY
    Z /= norms
    return norms


def loss(
    W: Float32, B: Float32, P: Float32, metric: Metric, tau: float, *, anchors_only: bool = False
) -> float:
    """Return the mean KL(P || Q) of an encoder over blocks; the parameters are those of `gradient`."""
    b, n, d = B.shape
    Z = np.matmul(B.reshape(b * n, d), W.T)
    _to_scored(Z, metric)
    Q = soft_neighbors(Z.reshape(b, n, -1), metric, tau)
    tiny = np.finfo(np.float32).tiny
    terms = P * (np.log(np.maximum(P, tiny)) - np.log(np.maximum(Q, tiny)))
    if anchors_only:
        terms = terms[:, :1]
    return float(terms.sum(dtype=np.float64) / (terms.shape[0] * terms.shape[1]))


def loss_of_fold(W: Float32, B: Float32, metric: Metric, *, anchors_only: bool = False) -> float | None:
    """Return the loss of an encoder over blocks with their own tau; None where rows can't be told apart.

    Parameters
    ----------
    W : ndarray of shape (m, d), float32
        The encoder.
    B : ndarray of shape (b, N, d), float32
        Blocks; of norm 1 for "cosine".
    metric : {"cosine", "l2", "ip"}
        Metric of the scores.
    anchors_only : bool, default=False
        Whether the first row of each block alone counts.

    Returns
    -------
    float or None
    """
    tau = score_spread(B, metric)
    if not distinguishes(B, tau):
        return None
    return loss(W, B, soft_neighbors(B, metric, tau), metric, tau, anchors_only=anchors_only)


def distinguishes(B: Float32, tau: float) -> bool:
    """Return whether scores differ by more than rounding.

    Parameters
    ----------
    B : ndarray of shape (b, N, d), float32
        Blocks.
    tau : float
        Spread of their scores; see `score_spread`.

    Returns
    -------
    bool
    """
    return bool(tau > np.finfo(np.float32).eps * float(np.square(B).sum(axis=2).max()))


def check_told_apart(B: Float32, tau: float, purpose: str) -> None:
    """Refuse blocks whose rows float32 doesn't tell apart by their scores.

    Parameters
    ----------
    B : ndarray of shape (b, N, d), float32
        Blocks.
    tau : float
        Spread of their scores; see `score_spread`.
    purpose : str
        End of the sentence "there is nothing ...", such as "to learn".

    Raises
    ------
    DataError
        The rows of every block are equal, or differ by less than float32 rounds their scores.

    Warns
    -----
    NearfoldWarning
        The scores differ by hardly more than that.
    """
    if B.shape[1] < 2:
        raise DataError(
            f"X has neighbourhoods of equal vectors only, or of such that differ by less than float32 tells "
            f"at their size, so there is nothing {purpose}; remove duplicate rows ({_SHARED})"
        )
    if not distinguishes(B, tau):
        if (B[:, :1] == B).all():
            raise DataError(
                f"X has neighbourhoods of equal vectors only: no neighbour is nearer than another, so there "
                f"is nothing {purpose}; remove duplicate rows"
            )
        raise DataError(
            f"X has neighbours whose scores differ by less than float32 tells at the size of the vectors "
            f"({_SHARED})"
        )
    if not distinguishes(B, tau / _BLUR):
        warn(
            f"neighbours' scores differ by hardly more than float32 tells at the size of the vectors, so who "
            f"is near whom is partly chance ({_SHARED})"
        )


def gradient(
    W: Float32,
    B: Float32,
    P: Float32,
    metric: Metric,
    tau: float,
    *,
    anchors_only: bool = False,
    widths: Mapping[int, float] | None = None,
    out: Float32 | None = None,
) -> Float32:
    """Return the gradient of `loss`, or of a weighted sum over first dimensions, with respect to the encoder.

    Parameters
    ----------
    W : ndarray of shape (m, d), float32
        The encoder.
    B : ndarray of shape (b, N, d), float32
        Blocks; of norm 1 for "cosine".
    P : ndarray of shape (b, N, N), float32
        Softmax before folding, `soft_neighbors(B, metric, tau)`.
    metric : {"cosine", "l2", "ip"}
        Metric of the scores.
    tau : float
        Temperature, above 0.
    anchors_only : bool, default=False
        Whether the first row of each block alone counts.
    widths : mapping of int to float, optional
        The weight of the loss of the first so many rows of W, by their number. By default the loss of all
        of W counts alone.
    out : ndarray of shape (m, d), float32, optional
        Array to write the gradient into. By default a new one is made.

    Returns
    -------
    ndarray of shape (m, d), float32
    """
    b, n, d = B.shape
    flat = B.reshape(b * n, d)
    Z = np.matmul(flat, W.T)
    if widths is None:
        dZ = _slopes(Z, P, metric, tau, 1.0, anchors_only=anchors_only)
    else:
        dZ = np.zeros_like(Z)
        for width, weight in widths.items():
            first = Z[:, :width].copy()
            dZ[:, :width] += _slopes(first, P, metric, tau, weight, anchors_only=anchors_only)
    return np.matmul(dZ.T, flat, out=out)


def _slopes(
    Z: Float32, P: Float32, metric: Metric, tau: float, weight: float, *, anchors_only: bool
) -> Float32:
    """Return dZ of the weighted loss; Z, the folded rows of all blocks, is written over."""
    b, n, _ = P.shape
    norms = _to_scored(Z, metric)
    Y = Z.reshape(b, n, -1)
    G = soft_neighbors(Y, metric, tau)
    G -= P
    G *= np.float32(weight / (tau * b * (1 if anchors_only else n)))
    if anchors_only:
        G[:, 1:] = 0
    dY = np.matmul(G + G.transpose(0, 2, 1), Y)
    if metric == "l2":
        dY -= G.sum(axis=1)[:, :, None] * Y
    dZ: Float32 = dY.reshape(b * n, -1)
    if norms is not None:
        dZ -= Z * np.einsum("ij,ij->i", dZ, Z)[:, None]
        dZ /= norms
    return dZ
