from __future__ import annotations

import json

import numpy as np
import pytest

from nearfold import sweep
from nearfold.errors import NearfoldError
from nearfold.evaluation.intervals import Estimate
from nearfold.evaluation.recall import EvaluationResult
from nearfold.evaluation.spectrum import Spectrum
from nearfold.evaluation.sweep import Sweep, SweepPoint


@pytest.fixture(scope="module")
def result(request: pytest.FixtureRequest) -> object:
    sample = request.getfixturevalue("sample")
    return sweep(
        sample[:700], n_components=24, methods=["rae-exact"], weight_decays=[1.0, 1e-7, 1e-4, 1e-5], k=[1, 5]
    )


def test_the_best_on_validation_is_chosen(result: object) -> None:
    points = result.of("rae-exact")  # type: ignore[attr-defined]
    assert [p.weight_decay for p in points] == [1e-7, 1e-5, 1e-4, 1.0]
    best = max(points, key=lambda p: p.recall)
    assert result.chosen == {"rae-exact": best.weight_decay}  # type: ignore[attr-defined]
    assert points[-1].spectrum is None  # all of it dead
    assert points[-1].recall == 0
    kappas = [p.spectrum.kappa for p in points[:-1]]
    assert kappas == sorted(kappas)


def test_report_queries_had_no_part_in_choosing(result: object, sample: np.ndarray) -> None:
    final = result.final  # type: ignore[attr-defined]
    assert (result.train, result.validation) == (567, 63)  # type: ignore[attr-defined]
    assert (final.rows, final.queries) == (630, 70)
    assert [e.method for e in final.entries] == ["pca", "pca-uncentred", "rae-exact"]
    assert final.entries[-1].encoder.parameters["weight_decay"] == result.chosen["rae-exact"]  # type: ignore[attr-defined]
    # Other queries, same choice.
    again = sweep(
        sample[:630],
        queries=sample[630:700],
        n_components=24,
        methods=["rae-exact"],
        weight_decays=[1e-7],
        k=[5],
    )
    assert again.final.queries == 70


def test_rank_correlation(result: object) -> None:
    # At the exact optimum kappa grows with lambda while less is kept.
    assert result.rank_correlation("rae-exact") == pytest.approx(-1, abs=0.51)  # type: ignore[attr-defined]
    json.dumps(result.as_dict())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kappas", "kept", "correlation"),
    [
        ([1, 2, 3], [0.5, 0.6, 0.7], 1.0),
        ([1, 2, 3, 9], [0.5, 0.4, 0.3, 0.35], -0.8),
        ([1, 2], [0.5, 0.6], np.nan),
        ([2, 2, 2], [0.5, 0.6, 0.7], np.nan),
        ([1, 2, 3], [0.5, 0.5, 0.5], np.nan),
        ([2, 2, 3], [0.5, 0.6, 0.7], 0.8660254),
    ],
)
def test_rank_correlation_of_known_points(kappas: list[float], kept: list[float], correlation: float) -> None:
    def result_of(value: float) -> EvaluationResult:
        return EvaluationResult("l2", {10: Estimate(value, value, value)}, {}, {})

    points = [
        SweepPoint("rae", value, Spectrum(1, 1, kappa), result_of(share))
        for value, (kappa, share) in enumerate(zip(kappas, kept, strict=True))
    ]
    dead = [SweepPoint("rae", 1e3, None, None), SweepPoint("rae-exact", 1.0, None, None)]
    found = Sweep("frobenius", 10, 9, 3, (*points, *dead), {}, None)  # type: ignore[arg-type]
    assert found.rank_correlation("rae") == pytest.approx(correlation, nan_ok=True)
    assert len(found.of("rae")) == len(points) + 1


def test_bad_input(sample: np.ndarray) -> None:
    for change, says in [
        ({"methods": ["pca"]}, "no lambda to sweep"),
        ({"weight_decays": []}, "weight_decays is empty"),
        ({"weight_decays": [-1.0]}, "weight_decay=-1"),
        ({"weight_decays": [10.0], "methods": ["rae-exact"]}, "no lambda leaves"),
        ({"regularizer": "l1"}, "regularizer='l1'"),
        ({"metric": "x"}, "metric='x'"),
        ({"n_queries": 0}, "n_queries=0"),
    ]:
        with pytest.raises(NearfoldError, match=says):
            sweep(sample[:300], **{"n_components": 8, **change})  # type: ignore[arg-type]
