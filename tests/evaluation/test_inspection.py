from __future__ import annotations

import json

import numpy as np
import pytest

from nearfold import PCA, Encoder, NearFold, inspect
from nearfold._utils.arrays import METRICS, Metric
from nearfold.evaluation.distortion import distortion
from nearfold.methods.random import RandomProjection
from tests.test_mlp import network


def test_ratios_lie_in_the_rayleigh_interval_where_nothing_is_dropped(
    clusters: np.ndarray, rng: np.random.Generator
) -> None:
    W = rng.standard_normal((24, 24)).astype(np.float32)
    values = np.linalg.svd(W, compute_uv=False)
    for ratios in distortion(Encoder(W, metric="l2"), clusters, "l2"):
        assert ratios.min() >= values[-1] * 0.999
        assert ratios.max() <= values[0] * 1.001
    folded = distortion(Encoder(W[:6], metric="l2"), clusters, "l2")
    # A fold drops part of most differences: only the upper end holds.
    smallest = np.linalg.svd(W[:6], compute_uv=False)[-1]
    assert (np.concatenate(folded) < smallest).any()


def test_equal_rows_have_no_ratio() -> None:
    ratios = distortion(Encoder(np.eye(2, 4), metric="l2"), np.ones((30, 4), np.float32), "l2")
    assert len(ratios.neighbors) == len(ratios.random) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_a_linear_fold_from_all_sides(metric: Metric, sample: np.ndarray) -> None:
    base, queries = sample[:700], sample[700:800]
    fold = NearFold(48, metric=metric, n_steps=60).fit(base).encoder_
    seen = inspect(fold, base, queries)
    assert seen.singular_values is not None
    assert seen.angles is not None
    assert seen.bounds is not None
    assert seen.null_energy is not None
    assert len(seen.singular_values) == len(seen.angles) == 48
    assert 0 < seen.null_energy < 0.7
    assert (seen.bounds.candidates >= 10).all()
    assert (seen.bounds.proven <= 10).all()
    as_dict = json.loads(json.dumps(seen.as_dict()))
    assert as_dict["evaluation"]["recall@10"]["mean"] == seen.evaluation.recall[10].mean


def test_principal_components_have_no_angle_to_themselves(sample: np.ndarray) -> None:
    base, queries = sample[:700], sample[700:800]
    seen = inspect(PCA(24, center=False).fit(base).encoder_, base, queries)
    assert seen.angles is not None
    assert np.degrees(seen.angles).max() < 0.1
    assert seen.gram_distance == pytest.approx(0, abs=1e-5)
    blind = inspect(RandomProjection(24).fit(base).encoder_, base, queries)
    assert blind.angles is not None
    assert np.degrees(blind.angles).max() > 80


def test_a_network_has_local_spectra_and_no_subspace(rng: np.random.Generator, clusters: np.ndarray) -> None:
    seen = inspect(network(rng, 24, 8, 3), clusters[:250], clusters[250:])
    assert seen.spectrum is not None
    assert seen.bounds is None
    assert "angles_to_pca" not in seen.as_dict()
