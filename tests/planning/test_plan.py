"""The planner: what fits, what is chosen, and that the front is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import plan
from nearfold.errors import ParameterError
from nearfold.planning.candidates import candidates, ladder

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


def test_a_plan_for_recall_takes_the_fewest_bytes_that_do(sample: Vectors) -> None:
    specs = ["NearFold16,SQ8", "NearFold32,SQ8", "SQ8", "F32"]
    result = plan(sample, recall=0.9, n_queries=200, n_candidates=30, codecs=specs)
    assert result.column == "10-recall@30"
    assert result.reached
    enough = [t for t in result.trials if result.kept(t).low >= 0.9]
    assert result.chosen.codec.bytes_per_vector == min(t.codec.bytes_per_vector for t in enough)
    hopeless = plan(sample, recall=0.999, n_queries=200, n_candidates=30, codecs=specs[:1])
    assert hopeless.reached is False


def test_what_can_not_be_planned_is_refused(sample: Vectors) -> None:
    with pytest.raises(ParameterError, match="either bytes or recall"):
        plan(sample)
    with pytest.raises(ParameterError, match="either bytes or recall"):
        plan(sample, n_bytes=8, recall=0.9)
    with pytest.raises(ParameterError, match="recall="):
        plan(sample, recall=1.5)
    with pytest.raises(ParameterError, match="storage="):
        plan(sample, n_bytes=8, storage="cloud")
    with pytest.raises(ParameterError, match="n_candidates"):
        plan(sample, n_bytes=8, n_candidates=5000)
    with pytest.raises(ParameterError, match="no codec could be fitted"):
        plan(sample[:100], n_bytes=8, n_candidates=20, codecs=["PQ8"])
