"""The command on vectors of every usual width, in little memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nearfold.methods.measured import MeasuredBlocks
from nearfold.methods.objective import loss, score_spread, soft_neighbors
from nearfold.methods.pca import WIDE, leading_axes, principal_axes
from nearfold.methods.training import fitting_rate
from nearfold.scan.moments import Moments, RunningMoments, summed
from nearfold.scan.scan import Blocks

from ..cli.conftest import Run, process, run

__all__ = ["process", "run"]


def wide(rows: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(d)
    axes = rng.standard_normal((12, d)).astype(np.float32)
    noise = 0.1 * rng.standard_normal((rows, d)).astype(np.float32)
    return rng.standard_normal((rows, 12)).astype(np.float32) @ axes + noise


@pytest.mark.parametrize(("d", "memory"), [(768, 330), (1536, 400), (3072, 640), (4096, 900)])
def test_the_command_fits_wide_vectors(d: int, memory: int, run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", wide(300, d))
    few = ("-p", "n_steps=1", "-p", "blocks_per_step=2", "-p", "n_neighbors=8", "--json")
    done = run("fit", "x.npy", "-d", "8", "-o", "f", "--memory", f"{memory}MB", *few)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dimensions"] == [d, 8]


def test_few_axes_of_wide_data_are_its_principal_axes() -> None:
    second = Moments.of(wide(200, WIDE + 8)).second
    found = leading_axes(second, 12)
    assert found.dtype == np.float32
    assert np.abs(found @ principal_axes(second)[1][:12].T - np.eye(12)).max() < 1e-3


@pytest.mark.parametrize("foreign", [False, True])
def test_a_loss_by_pieces_is_that_of_all(foreign: bool) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((90, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = rng.permuted(np.tile(np.arange(90), (37, 1)), axis=1)[:, :7]
    whole, W = vectors[index], np.eye(3, 12, dtype=np.float32)
    measured = MeasuredBlocks(Blocks(vectors, index, foreign), index, "cosine")
    tau = score_spread(whole, "cosine")
    assert measured.tau == pytest.approx(tau, rel=1e-6)
    wanted = loss(W, whole, soft_neighbors(whole, "cosine", tau), "cosine", tau, anchors_only=foreign)
    assert measured.loss(W) == pytest.approx(wanted, rel=1e-5)


def test_parts_are_summed_behind_a_start() -> None:
    X = wide(50, 6)
    parts = [RunningMoments(6, np.float64) for _ in range(2)]
    for part, rows in zip(parts, (X[10:30], X[30:]), strict=True):
        part.add(rows)
    start = Moments.of(X[:10])
    before = start.second.copy()
    found, whole = summed(parts, start), Moments.of(X)
    assert found.count == 50
    np.testing.assert_allclose(found.second, whole.second)
    np.testing.assert_allclose(found.total, whole.total)
    assert np.array_equal(start.second, before)


def test_a_loss_that_rounding_made_negative_gives_a_rate() -> None:
    assert fitting_rate(-1e-9) == fitting_rate(0.0) == 0.0
    assert fitting_rate(4e-3) == fitting_rate(1.0) == 4e-3
