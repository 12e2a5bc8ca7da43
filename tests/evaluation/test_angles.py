from __future__ import annotations

import numpy as np
import pytest

from nearfold.evaluation.angles import gram_distance, principal_angles
from nearfold.evaluation.spectrum import Spectrum, local_spectra, spectrum_of
from tests.test_mlp import network


def test_angles_of_known_planes() -> None:
    tilt = np.radians(30)
    first = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    second = np.array([[1.0, 0, 0, 0], [0, np.cos(tilt), np.sin(tilt), 0]])
    np.testing.assert_allclose(np.degrees(principal_angles(first, 5 * second)), [30, 0], atol=1e-6)
    np.testing.assert_allclose(np.degrees(principal_angles(first, np.eye(4)[2:])), [90, 90], atol=1e-6)


def test_gram_distance() -> None:
    assert gram_distance(7 * np.eye(3, 5, dtype=np.float32)) == pytest.approx(0)
    assert gram_distance(np.ones((2, 3), np.float32)) == pytest.approx(1)
    assert np.isnan(gram_distance(np.zeros((2, 3), np.float32)))


def test_a_networks_spectrum_is_the_median_of_its_points(rng: np.random.Generator) -> None:
    fold = network(rng, 6, 8, 2)
    points = rng.standard_normal((40, 6)).astype(np.float32)
    assert spectrum_of(fold) is None
    kappas = [s.kappa for s in local_spectra(fold, points)]
    found = spectrum_of(fold, points)
    assert found is not None
    assert found.kappa == pytest.approx(np.median(kappas))
    # Without hidden units that bend, every point has the same.
    flat = network(rng, 6, 2)
    assert np.ptp([s.kappa for s in local_spectra(flat, points)]) == pytest.approx(0)


def test_dead_directions_are_infinite() -> None:
    assert Spectrum.of(np.array([1.0, 0.0])).kappa == np.inf
