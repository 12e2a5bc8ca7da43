"""RAE(weight_decay="auto"): chosen on rows held back, then learned from all."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from nearfold import PCA, RAE, evaluate
from nearfold._utils.arrays import METRICS, Metric
from nearfold.errors import NearfoldError, NearfoldWarning
from nearfold.methods.rae.validation import Validation


@pytest.mark.parametrize("solver", ["adam", "exact"])
def test_the_best_on_validation_is_kept(solver: str, sample: np.ndarray) -> None:
    X = sample[:600]
    fitted = RAE(24, solver=solver, weight_decay="auto", n_steps=150).fit(X).encoder_  # type: ignore[arg-type]
    scored = {float(name): score for name, score in fitted.facts["validation"].items()}
    best = fitted.facts["weight_decay"]
    assert scored[best] == max(scored.values())
    assert fitted.facts["rows"] == 600
    assert len(scored) >= 5
    # Learned again from all rows, with the lambda chosen.
    if solver == "exact":
        again = RAE(24, solver="exact", weight_decay=best).fit(X).encoder_
        np.testing.assert_allclose(fitted.weight, again.weight, atol=1e-5 * np.abs(again.weight).max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("levels", [None, 2])
def test_recall_is_what_evaluation_says(metric: Metric, levels: int | None, sample: np.ndarray) -> None:
    """The measure that lambda is chosen by is the one reported, where many rows tie at the k-th place too."""
    rows = sample[:800] if levels is None else np.round(10 * sample[:800, :12]) + levels
    split = Validation.split(rows.astype(np.float32), metric, np.random.default_rng(0))
    assert (len(split.train), len(split.queries)) == (720, 80)
    encoder = PCA(8, metric=metric).fit(split.train).encoder_
    with warnings.catch_warnings():
        # Rounded rows have copies among the queries.
        warnings.simplefilter("ignore", NearfoldWarning)
        judged = evaluate(encoder, split.train, split.queries, k=[10], n_candidates=[])
    assert split.recall(encoder) == pytest.approx(judged.recall[10].mean, abs=1e-9)


def test_a_zero_row_is_near_nothing_by_cosine(clusters: np.ndarray) -> None:
    clusters[::7] = 0
    fitted = RAE(5, solver="exact", weight_decay="auto").fit(clusters)
    assert all(0 <= score <= 1 for score in fitted.encoder_.facts["validation"].values())


def test_too_little_or_hopeless_data_is_said() -> None:
    with pytest.raises(NearfoldError, match="too few to hold some back"):
        RAE(2, weight_decay="auto", solver="exact").fit(np.eye(5))
    tiny = 1e-8 * np.random.default_rng(0).standard_normal((60, 5))
    with pytest.raises(NearfoldError, match=r"finds no lambda from 1e-08 to 0\.1 that"):
        RAE(2, weight_decay="auto", solver="exact").fit(tiny)
