"""Singular values and condition number: of a linear fold's weight, or of a network's Jacobians."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nearfold._utils.arrays import Float32, Float64
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.folds.mlp import MLPEncoder

__all__ = ["Spectrum", "local_spectra", "singular_values", "spectrum", "spectrum_of"]


# Jacobians looked at: their condition numbers' median is steady long before this.
_MAX_POINTS = 64


class Spectrum(NamedTuple):
    """The extreme singular values of W (m x d).

    Attributes
    ----------
    sigma_max, sigma_min : float
        The largest and the m-th singular value.
    kappa : float
        Their ratio, the condition number; infinite when a direction of the output is dead. It
        bounds distortion on the row space of W only and says nothing of what W drops.
    """

    sigma_max: float
    sigma_min: float
    kappa: float

    @classmethod
    def of(cls, values: Float64) -> Spectrum:
        """Return the spectrum for singular values.

        Parameters
        ----------
        values : ndarray of shape (m,), float64
            The singular values, descending.

        Returns
        -------
        Spectrum
            kappa is infinite if the smallest value is not above the rounding of a float32 weight.
        """
        largest, smallest = float(values[0]), float(values[-1])
        # Below this a singular value is the rounding of a float32 weight, not a direction.
        if smallest <= largest * np.finfo(np.float32).eps:
            return cls(largest, smallest, float("inf"))
        return cls(largest, smallest, largest / smallest)


def singular_values(weight: Float32) -> Float64:
    """Return the singular values of a weight, computed in float64.

    Parameters
    ----------
    weight : ndarray of shape (m, d), float32
        The weight W, where m <= d.

    Returns
    -------
    ndarray of shape (m,), float64
        The values, descending.
    """
    values: Float64 = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    return values


def spectrum(weight: Float32) -> Spectrum:
    """Return the spectrum of a weight, computed in float64.

    Parameters
    ----------
    weight : ndarray of shape (m, d), float32
        The weight W, where m <= d.

    Returns
    -------
    Spectrum
    """
    return Spectrum.of(singular_values(weight))


def local_spectra(fold: MLPEncoder, points: Float32) -> list[Spectrum]:
    """Return the spectra of a network's Jacobian matrices dz/dx.

    Parameters
    ----------
    fold : MLPEncoder
        The network.
    points : ndarray of shape (p, d), float32
        The points x.

    Returns
    -------
    list of Spectrum
        One spectrum for each point.
    """
    slopes = (fold.jacobian(x) for x in points)
    return [Spectrum.of(np.linalg.svd(slope, compute_uv=False).astype(np.float64)) for slope in slopes]


def spectrum_of(fold: Fold, points: Float32 | None = None) -> Spectrum | None:
    """Return the spectrum of a fold: for a network the medians over its Jacobians at `points`.

    Parameters
    ----------
    fold : Fold
        A fold of any kind.
    points : ndarray of shape (p, d), float32, optional
        Data rows, of which 64, evenly spread, are looked at. Without them a network has no spectrum.

    Returns
    -------
    Spectrum or None
        None is returned for a fold that has no derivative to look at.
    """
    if isinstance(fold, Encoder):
        return spectrum(fold.weight)
    if isinstance(fold, MLPEncoder) and points is not None:
        local = np.array(local_spectra(fold, points[:: max(1, len(points) // _MAX_POINTS)][:_MAX_POINTS]))
        return Spectrum(*(float(v) for v in np.median(local, axis=0)))
    return None
