"""RAE(weight_decay="auto"): chosen on rows held back, then learned from all."""

from __future__ import annotations

import numpy as np
import pytest

from nearfold import RAE
from nearfold.errors import NearfoldError
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
        np.testing.assert_array_equal(fitted.weight, again.weight)


def test_preservation_is_what_evaluation_says(sample: np.ndarray) -> None:
    from nearfold import PCA, evaluate

    split = Validation.split(sample[:800], "cosine", np.random.default_rng(0))
    assert (len(split.train), len(split.queries)) == (720, 80)
    encoder = PCA(24).fit(split.train).encoder_
    judged = evaluate(encoder, split.train, split.queries, k=[10], n_candidates=[])
    assert split.recall(encoder) == pytest.approx(judged.recall[10].mean, abs=0.01)


def test_too_little_or_hopeless_data_is_said() -> None:
    with pytest.raises(NearfoldError, match="too few to hold some back"):
        RAE(2, weight_decay="auto", solver="exact").fit(np.eye(5))
    tiny = 1e-8 * np.random.default_rng(0).standard_normal((60, 5))
    with pytest.raises(NearfoldError, match=r"finds no lambda from 1e-08 to 0\.1 that"):
        RAE(2, weight_decay="auto", solver="exact").fit(tiny)
