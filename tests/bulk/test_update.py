from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearfold import PCA, NearFold
from nearfold.bulk.update import update
from nearfold.errors import DataError, FileError
from nearfold.folds.encoder import Encoder
from nearfold.io.vectors import open_source
from nearfold.methods.scanned import ScanFold
from nearfold.scan.checkpoint import ScanCheckpoint


def begun(estimator: ScanFold, rows: np.ndarray, folder: Path) -> tuple[Encoder, ScanCheckpoint]:
    np.save(folder / "old.npy", rows)
    state = folder / "scan.safetensors"
    encoder = estimator.fit(open_source(folder / "old.npy"), checkpoint=state).encoder_
    return encoder, ScanCheckpoint.load(state)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_more_of_the_same_changes_nothing_and_is_counted(
    metric: str, sample: np.ndarray, tmp_path: Path
) -> None:
    estimator = NearFold(24, metric=metric, n_steps=40, n_anchors=300)
    encoder, state = begun(estimator, sample[:1000], tmp_path)
    np.save(tmp_path / "new.npy", sample[1000:])
    found = update(encoder, state, open_source(tmp_path / "new.npy"), min_gain=0.3)
    assert not found.refitted
    assert found.fold is encoder
    assert (found.rows, found.checkpoint.rows) == (500, 1500)
    # Moments are those of all rows, and old anchors have their neighbours among all rows.
    np.save(tmp_path / "all.npy", sample)
    whole = tmp_path / "whole.safetensors"
    estimator.fit(open_source(tmp_path / "all.npy"), checkpoint=whole)
    all_rows = ScanCheckpoint.load(whole)
    assert found.checkpoint.anchors is not None
    assert all_rows.anchors is not None
    assert all_rows.scan is not None
    assert found.checkpoint.scan is not None
    np.testing.assert_array_equal(found.checkpoint.anchors.rows, all_rows.anchors.rows)
    np.testing.assert_allclose(found.checkpoint.scan.mean, all_rows.scan.mean, atol=1e-6)
    np.testing.assert_allclose(
        found.checkpoint.scan.moments.covariance, all_rows.scan.moments.covariance, atol=1e-6
    )
    ours, theirs = (s.scan.neighbors.sorted().ids for s in (found.checkpoint, all_rows))  # type: ignore[union-attr]
    old = all_rows.anchors.rows < 1000
    assert (ours[old] == theirs[old]).mean() > 0.999
    # New anchors find what is new, and what was kept of the old.
    assert (ours[~old] == theirs[~old]).mean() > 0.8
    np.testing.assert_array_equal(found.checkpoint.sample.ids, all_rows.sample.ids)  # type: ignore[union-attr]


def test_other_rows_lead_to_a_refit(sample: np.ndarray, tmp_path: Path) -> None:
    estimator = NearFold(24, n_steps=40, n_anchors=300)
    encoder, state = begun(estimator, sample[:1000], tmp_path)
    turned = np.random.default_rng(0).permutation(sample.shape[1])
    np.save(tmp_path / "new.npy", sample[500:, turned])
    found = update(encoder, state, open_source(tmp_path / "new.npy"))
    assert found.refitted
    assert found.loss_after < 0.8 * found.loss_before
    assert found.fold.facts["rows"] == 2000
    assert found.fold.facts["rows_before_update"] == 1000
    # What was found can be written, read and gone on from.
    found.checkpoint.save(tmp_path / "next")
    np.save(tmp_path / "more.npy", sample[:300] * 2)
    more = update(found.fold, ScanCheckpoint.load(tmp_path / "next"), open_source(tmp_path / "more.npy"))
    assert more.checkpoint.rows == 2300


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_what_was_learned_for_queries_is_updated(metric: str, sample: np.ndarray, tmp_path: Path) -> None:
    queries, rows = sample[:300, ::-1], sample[300:]
    estimator = NearFold(24, metric=metric, n_steps=40, n_anchors=200)
    np.save(tmp_path / "all.npy", rows)
    np.save(tmp_path / "old.npy", rows[:800])
    for name in ("all", "old"):
        estimator.fit(tmp_path / f"{name}.npy", queries=queries, checkpoint=tmp_path / name)
    found = update(estimator, tmp_path / "old", rows[800:], min_gain=-9)
    assert found.refitted
    assert (found.fold.facts["anchors"], found.fold.facts["queries"]) == (200, 200)
    whole, ours = ScanCheckpoint.load(tmp_path / "all"), found.checkpoint
    assert whole.anchors is not None
    assert ours.anchors is not None
    np.testing.assert_array_equal(ours.anchors.rows, whole.anchors.rows)
    which = whole.anchors.of_queries
    np.testing.assert_array_equal(ours.anchors.of_queries, which)
    # The queries stay the same, so they know their neighbours among all rows.
    mine, theirs = (s.scan.neighbors.chosen(which).sorted().ids for s in (ours, whole))  # type: ignore[union-attr]
    assert (mine == theirs).mean() > 0.999
    ours.save(tmp_path / "next")
    again = ScanCheckpoint.load(tmp_path / "next")
    np.testing.assert_array_equal(again.request.queries, ours.anchors.vectors[which])  # type: ignore[arg-type]


def test_moments_alone_can_be_updated(sample: np.ndarray, tmp_path: Path) -> None:
    encoder, state = begun(PCA(24), sample[:1000], tmp_path)
    np.save(tmp_path / "new.npy", sample[1000:, ::-1] * 3)
    found = update(encoder, state, open_source(tmp_path / "new.npy"))
    assert found.refitted
    both = np.concatenate([sample[:1000], sample[1000:, ::-1] * 3])
    np.testing.assert_allclose(found.fold.weight, PCA(24).fit(both).encoder_.weight, atol=1e-4)


def test_bad_input(sample: np.ndarray, tmp_path: Path) -> None:
    encoder, state = begun(NearFold(24, n_steps=5, n_anchors=100), sample[:1000], tmp_path)
    with pytest.raises(FileError, match=r"old\.npy: is in the scan already"):
        update(encoder, state, open_source(tmp_path / "old.npy"))
    np.save(tmp_path / "narrow.npy", sample[:9, :5])
    with pytest.raises(DataError, match="5 dimensions, the encoder takes 384"):
        update(encoder, state, open_source(tmp_path / "narrow.npy"))
    np.save(tmp_path / "new.npy", sample[1000:])
    new = open_source(tmp_path / "new.npy")
    with pytest.raises(FileError, match="not finished"):
        update(encoder, state._replace(done=5), new)
    with pytest.raises(FileError, match="not that of this encoder"):
        update(PCA(24, metric="l2").fit(sample).encoder_, state, new)
