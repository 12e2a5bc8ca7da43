"""Small data that every test may use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import load_sample


@pytest.fixture(scope="session")
def sample() -> npt.NDArray[np.float32]:
    """Return 1,500 real sentence embeddings."""
    vectors = load_sample().vectors[:1500].astype(np.float32)
    vectors.flags.writeable = False
    return vectors


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def clusters(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return 300 rows of 24 dimensions with neighbourhoods, off the origin, of unequal norms."""
    centers = rng.standard_normal((20, 24)) * np.linspace(2, 0.1, 24)
    rows = centers[rng.integers(0, 20, 300)] + 0.2 * rng.standard_normal((300, 24))
    return (rows + 0.5).astype(np.float32)
