"""Singular values and condition number of an encoder's weight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nearfold.arrays import Float32

__all__ = ["Spectrum", "spectrum"]


class Spectrum(NamedTuple):
    """The extreme singular values of W (m x d).

    Parameters
    ----------
    sigma_max, sigma_min
        The largest and the m-th singular value.
    kappa
        Their ratio, the condition number; infinite when a direction of the output is dead. It
        bounds distortion on the row space of W only and says nothing of what W drops.
    """

    sigma_max: float
    sigma_min: float
    kappa: float


def spectrum(weight: Float32) -> Spectrum:
    """Return the spectrum of a weight of shape (m, d), m <= d, computed in float64."""
    values = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    largest, smallest = float(values[0]), float(values[-1])
    # Below this a singular value is the rounding of the float32 weight, not a direction.
    if smallest <= largest * np.finfo(np.float32).eps:
        return Spectrum(largest, smallest, float("inf"))
    return Spectrum(largest, smallest, largest / smallest)
