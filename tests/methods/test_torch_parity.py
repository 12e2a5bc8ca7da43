"""RAE by Adam against the same run in torch: same start, same batches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from nearfold.methods.rae.gradient import (
    cosine_rates,
    draw_batches,
    initial_autoencoder,
    train_autoencoder,
)

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-5, 1e-2])
def test_200_steps(bias: bool, weight_decay: float, sample: np.ndarray) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from reference import train_with_torch

    rng = np.random.default_rng(0)
    start = initial_autoencoder(384, 96, rng, bias=bias)
    batches = draw_batches(len(sample), 128, 200, rng)
    X = np.array(sample)
    ours, _ = train_autoencoder(X, start, batches, cosine_rates(200, 1e-3, 1e-5), weight_decay)
    theirs = train_with_torch(X, start, batches, 200, weight_decay)
    for name in ("encoder", "decoder", *(["encoder_bias", "decoder_bias"] if bias else [])):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)
