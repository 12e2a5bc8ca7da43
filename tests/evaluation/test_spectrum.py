from __future__ import annotations

import numpy as np
import pytest

from nearfold.evaluation.spectrum import spectrum


def test_singular_values(rng: np.random.Generator) -> None:
    U, V = (np.linalg.qr(rng.standard_normal((n, 3)))[0] for n in (3, 8))
    result = spectrum((U * [4.0, 2.0, 0.5] @ V.T).astype(np.float32))
    assert result.sigma_max == pytest.approx(4, rel=1e-5)
    assert result.sigma_min == pytest.approx(0.5, rel=1e-5)
    assert result.kappa == pytest.approx(8, rel=1e-5)


def test_a_dead_row_has_no_condition() -> None:
    assert spectrum(np.eye(2, 3, dtype=np.float32) * np.float32([[1], [0]])).kappa == np.inf
    assert spectrum(np.zeros((1, 3), np.float32)).kappa == np.inf
