"""The planner: what fits, what is chosen, and that the front is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import plan
from nearfold.codecs.spec import parse_spec
from nearfold.errors import DataError, ParameterError
from nearfold.evaluation.qrels import labels_of
from nearfold.planning.candidates import candidates, ladder
from nearfold.planning.halving import Rung, successive_halving

Vectors = npt.NDArray[np.float32]


@pytest.mark.parametrize("n_bytes", [2, 24, 96, 400])
def test_candidates_are_named_once_and_some_do_not_fold(n_bytes: int) -> None:
    found = candidates(n_bytes, 384)
    assert len(found) == len(set(found))
    assert any(spec.method == "nearfold" for spec in found) or n_bytes == 400
    if n_bytes >= 24:
        assert any(spec.method is None for spec in found)


def test_the_ladder_rises() -> None:
    assert ladder(384) == [24, 48, 96, 192, 384, 768, 1536]


def test_a_plan_for_bytes(sample: Vectors) -> None:
    result = plan(sample[:, :64], n_bytes=8, n_queries=100, storage="nowhere", seconds=600)
    assert result.column == "recall@10"
    assert result.chosen.codec.bytes_per_vector <= 8
    last = max(trial.rung for trial in result.trials)
    finals = [trial for trial in result.trials if trial.rung == last]
    assert result.chosen in finals
    assert result.kept(result.chosen).mean == max(result.kept(trial).mean for trial in finals)
    front = result.front()
    sizes = [trial.codec.bytes_per_vector for trial in front]
    kept = [result.kept(trial).mean for trial in front]
    assert sizes == sorted(set(sizes))
    assert kept == sorted(set(kept))
    assert len(result.as_dict()["trials"]) == len(result.trials)


def test_a_file_is_planned_as_its_array(sample: Vectors, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sample[:600])
    np.save(tmp_path / "q.npy", sample[600:700])
    codecs = ["PCA16,SQ8", "SQ4"]
    read = plan(tmp_path / "x.npy", n_bytes=400, queries=tmp_path / "q.npy", codecs=codecs)
    held = plan(sample[:600], n_bytes=400, queries=sample[600:700], codecs=codecs)
    assert [read.kept(trial) for trial in read.trials] == [held.kept(trial) for trial in held.trials]


def test_a_plan_learns_from_queries_that_do_not_measure(rng: np.random.Generator) -> None:
    base, asked = (rng.standard_normal((n, 32)).astype(np.float32) for n in (1500, 900))
    base[:, :24] *= 3
    asked[:, :24] *= 0.1
    options: dict[str, Any] = {"n_bytes": 8, "metric": "ip", "codecs": ["NearFold8,SQ8"], "n_candidates": 0}
    alone = plan(base, queries=asked[:200], **options)
    told = plan(base, queries=asked[:200], fit_queries=asked[200:], **options)
    assert told.kept(told.chosen).mean > alone.kept(alone.chosen).mean + 0.05
    with pytest.raises(DataError, match="fit_queries: row 1 is among the queries that measure"):
        plan(base, queries=asked[:200], fit_queries=np.concatenate([asked[300:301], asked[7:8]]), **options)


def test_a_plan_for_recall_takes_the_fewest_bytes_that_do(sample: Vectors) -> None:
    specs = ["NearFold16,SQ8", "NearFold32,SQ8", "SQ8", "F32"]
    result = plan(sample, recall=0.9, n_queries=200, n_candidates=30, codecs=specs)
    assert result.column == "10-recall@30"
    assert result.reached
    enough = [t for t in result.trials if result.kept(t).low >= 0.9]
    assert result.chosen.codec.bytes_per_vector == min(t.codec.bytes_per_vector for t in enough)
    hopeless = plan(sample, recall=0.999, n_queries=200, n_candidates=30, codecs=specs[:1])
    assert hopeless.reached is False


@pytest.fixture(name="labelled", scope="module")
def labelled_(sample: Vectors) -> tuple[Vectors, Vectors, dict[int, dict[int, int]]]:
    """Return a base, queries, and labels of which many are among the queries' first neighbours."""
    base, queries = sample[:1000], sample[1000:1200]
    near = np.argsort(-(queries @ base.T), axis=1)
    rng = np.random.default_rng(0)
    picked = [rng.choice(row[:15], 2, replace=False).tolist() for row in near]
    return base, queries, {q: dict(zip(own, (2, 1), strict=True)) for q, own in enumerate(picked) if q}


def test_a_plan_for_ndcg_takes_the_fewest_bytes_that_keep_it(
    labelled: tuple[Vectors, Vectors, dict[int, dict[int, int]]],
) -> None:
    base, queries, qrels = labelled
    specs = ["NearFold16,SQ8", "NearFold32,SQ8", "SQ4", "F32"]
    result = plan(base, ndcg=0.9, queries=queries, qrels=qrels, storage="nowhere", codecs=specs)
    assert result.column == "nDCG@10"
    assert result.measures == {"nDCG@10": "nDCG@10 kept", "recall@10": "recall@10"}
    assert result.reached
    for trial in result.trials:
        labels = trial.evaluation.labels
        assert labels is not None
        assert labels.n_judged == 199
        assert result.kept(trial) == labels.kept["nDCG@10"]
    enough = [t for t in result.trials if result.kept(t).low >= 0.9]
    assert 0 < len(enough) < len(specs)
    assert result.chosen.codec.bytes_per_vector == min(t.codec.bytes_per_vector for t in enough)
    (whole,) = (t for t in result.trials if str(t.spec) == "F32")
    assert result.kept(whole).mean == 1
    values = result.as_dict()
    assert values["measure"] == "nDCG@10 kept"
    assert "R@10" in values["trials"][0]["evaluation"]["labels"]
    hopeless = plan(base, ndcg=0.999, queries=queries, qrels=qrels, storage="nowhere", codecs=specs[:1])
    assert hopeless.reached is False


def test_candidates_in_order_of_vectors_keep_more_labels(
    labelled: tuple[Vectors, Vectors, dict[int, dict[int, int]]],
) -> None:
    base, queries, qrels = labelled

    def kept(n_candidates: int) -> float:
        found = plan(
            base,
            n_bytes=16,
            queries=queries,
            qrels=qrels,
            n_candidates=n_candidates,
            codecs=["NearFold16,SQ8"],
        )
        assert found.measures == {found.column: found.column, "nDCG@10": "nDCG@10 kept"}
        return found.chosen.evaluation.kept("nDCG@10").mean

    few, some, all_ = kept(0), kept(20), kept(900)
    assert few < some < all_
    # Nearly all rows are candidates.
    assert all_ == pytest.approx(1, abs=0.01)


def test_rounds_of_few_rows_hold_all_relevant_documents(sample: Vectors) -> None:
    # Rows again with noise, as rounds need thousands.
    noise = 0.01 * np.random.default_rng(1).standard_normal((6 * 1000, 64))
    base = (np.tile(sample[:1000, :64], (6, 1)) + noise).astype(np.float32)
    qrels = {q: {5999 - q: 1} for q in range(50)}
    rung = Rung(1 / 2, 1.0, 1.0, 1.0)
    settings: dict[str, Any] = {
        "metric": "cosine",
        "k": 10,
        "n_candidates": 0,
        "column": "nDCG@10",
        "seed": 0,
    }
    specs = [parse_spec("PCA16,SQ8"), parse_spec("PCA32,SQ8")]
    labels = labels_of(qrels, base, sample, len(base), 50)
    trials, _ = successive_halving(
        base,
        sample[1000:1050, :64],
        specs,
        [0, 0],
        seconds=None,
        labels=labels,
        rungs=(rung, Rung(1.0, 0.0, 0.0, 1.0)),
        **settings,
    )
    early = [trial for trial in trials if trial.rung == 0]
    assert len(early) == 2
    assert all(3000 <= trial.rows <= 3050 for trial in early)
    assert all(trial.evaluation.labels is not None for trial in trials)


def test_what_can_not_be_planned_is_refused(sample: Vectors) -> None:
    with pytest.raises(ParameterError, match="one of bytes, recall and ndcg"):
        plan(sample)
    with pytest.raises(ParameterError, match="one of bytes, recall and ndcg"):
        plan(sample, n_bytes=8, recall=0.9)
    with pytest.raises(ParameterError, match="recall="):
        plan(sample, recall=1.5)
    with pytest.raises(ParameterError, match="ndcg="):
        plan(sample, ndcg=1, qrels={0: {0: 1}}, queries=sample[:2])
    with pytest.raises(ParameterError, match="ndcg needs qrels"):
        plan(sample, ndcg=0.9)
    with pytest.raises(ParameterError, match="storage="):
        plan(sample, n_bytes=8, storage="cloud")
    with pytest.raises(ParameterError, match="n_candidates"):
        plan(sample, n_bytes=8, n_candidates=5000)
    with pytest.raises(ParameterError, match="no codec could be fitted"):
        plan(sample[:100], n_bytes=8, n_candidates=20, codecs=["PQ8"])
