"""The card beside a saved fold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nearfold import PCA, Encoder
from nearfold.evaluation.drift import DriftStats, with_drift_stats

Vectors = npt.NDArray[np.float32]


def test_save_writes_a_card_that_names_its_file(tmp_path: Path, clusters: Vectors) -> None:
    fold = with_drift_stats(PCA(4, metric="l2").fit(clusters).encoder_, [DriftStats(500, 0.71234, 0.9)])
    fold.save(tmp_path / "a.b.safetensors")
    card = (tmp_path / "a.b.card.md").read_text(encoding="utf-8")
    assert card == Encoder.load(tmp_path / "a.b.safetensors").card()
    digest = hashlib.sha256((tmp_path / "a.b.safetensors").read_bytes()).hexdigest()
    for said in (
        "24 to 4 dimensions",
        "Euclidean distance",
        "| rows learned from | 300 |",
        "| 500 | 0.712 | 0.900 |",
        digest,
        str(fold.facts["fingerprint"]),
    ):
        assert said in card


def test_a_card_can_be_left_out_and_says_what_was_not_measured(tmp_path: Path) -> None:
    fold = Encoder(np.eye(2, 3, dtype=np.float32))
    fold.save(tmp_path / "fold.safetensors", card=False)
    assert [path.name for path in tmp_path.iterdir()] == ["fold.safetensors"]
    assert "Not measured" in fold.card()


def test_the_fingerprint_is_of_the_data_alone(tmp_path: Path, clusters: Vectors) -> None:
    np.save(tmp_path / "x.npy", clusters)
    changed = clusters.copy()
    changed[-1, 0] += 1
    prints = [
        str(encoder.facts["fingerprint"])
        for encoder in (
            PCA(4).fit(clusters).encoder_,
            PCA(2, metric="l2").fit(clusters.astype(np.float64)).encoder_,
            PCA(3).fit(tmp_path / "x.npy").encoder_,
            PCA(4).fit(changed).encoder_,
            PCA(4).fit(clusters[:-1]).encoder_,
        )
    ]
    assert prints[0] == prints[1] == prints[2]
    assert len(set(prints)) == 3
