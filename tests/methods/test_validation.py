"""What is held back to choose a parameter on."""

from __future__ import annotations

import numpy as np
import pytest

from nearfold import Encoder
from nearfold.errors import DataError
from nearfold.methods.rae.validation import Validation


@pytest.mark.parametrize(
    ("rows", "train", "queries", "k"),
    [(10, 9, 1, 4), (19, 18, 1, 9), (300, 270, 30, 10), (6000, 5500, 500, 10), (30_000, 19_500, 500, 10)],
)
def test_a_tenth_is_held_back(rows: int, train: int, queries: int, k: int, rng: np.random.Generator) -> None:
    X = np.arange(1, 2 * rows + 1, dtype=np.float32).reshape(rows, 2)
    split = Validation.split(X, "l2", rng)
    assert (len(split.train), len(split.queries)) == (train, queries)
    assert split.truth.shape == (queries, k)
    assert not np.isin(split.queries[:, 0], split.train[:, 0]).any()
    assert split.recall(Encoder(np.eye(2), metric="l2")) == 1


def test_too_few_rows_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match=r"9 sample\(s\)"):
        Validation.split(np.ones((9, 2), np.float32), "l2", rng)


def test_the_best_comes_first_and_none_is_left_out(sample: np.ndarray, rng: np.random.Generator) -> None:
    split = Validation.split(sample[:300, :8], "cosine", rng)

    def learn(rows: np.ndarray, kept: float) -> Encoder | None:
        assert rows is split.train
        return Encoder(np.eye(int(kept), 8)) if kept else None

    scored = split.best([1.0, 0.0, 7.0, 4.0], learn)
    assert list(scored) == [7.0, 4.0, 1.0]
    assert scored[7.0] == split.recall(Encoder(np.eye(7, 8))) > scored[4.0] > scored[1.0]
