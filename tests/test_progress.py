"""Progress is true: every stage that begins comes to its end, whatever does the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nearfold import PCA, NearFold, SearchIndex, compare, evaluate, fit_codec, plan, sweep
from nearfold._utils.progress import reporting
from nearfold.bulk.apply import apply
from nearfold.io.vectors import open_source
from nearfold.methods.registry import METHODS, make


class Recorder:
    """Counts the steps of every stage."""

    def __init__(self) -> None:
        self.stages: list[list[object]] = []

    def start(self, label: str, total: int, _unit: str) -> tuple[Callable[[int], None], Callable[[], None]]:
        bar: list[object] = [label, total, 0, False]
        self.stages.append(bar)

        def advance(steps: int) -> None:
            bar[2] += steps  # type: ignore[operator]

        def finish() -> None:
            bar[3] = True

        return advance, finish


def recorded(work: Callable[[], object]) -> set[str]:
    """Return the labels of the stages of some work, each of which ended at its total."""
    recorder = Recorder()
    with reporting(recorder):
        work()
    for label, total, steps, finished in recorder.stages:
        assert steps == total, label
        assert finished, label
    return {str(label) for label, *_ in recorder.stages}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.needs])
def test_fits(name: str, sample: np.ndarray) -> None:
    known = make(name, 4).get_params()
    steps = {"n_steps": 7} if "n_steps" in known else {}
    told = recorded(lambda: make(name, 4, **steps).fit(sample[:300, :16]))
    if name in ("rae", "nearfold"):
        assert told & {"RAE", "NearFold"}


@pytest.mark.parametrize(("m", "asked", "steps"), [(32, None, 600), (33, None, 200), (33, 5, 5)])
def test_few_dimensions_take_more_steps(m: int, asked: int | None, steps: int, sample: np.ndarray) -> None:
    recorder = Recorder()
    with reporting(recorder):
        NearFold(m, n_steps=asked).fit(sample[:300, :40])
    assert ["NearFold", steps, steps, True] in recorder.stages


def test_codecs_and_search(sample: np.ndarray) -> None:
    base = np.ascontiguousarray(sample[:700, :32])
    for spec, stages in (("AQ4", {"codes", "codebooks"}), ("PCA16,OPQ8", {"rotation", "codebooks"})):
        made = []
        assert recorded(lambda spec=spec, made=made: made.append(fit_codec(base, spec))) >= stages
        assert "index" in recorded(lambda made=made: SearchIndex.build(made[0], base))
    assert "encode" in recorded(lambda: fit_codec(base, "AQ4").encode(base))


def test_judging(sample: np.ndarray) -> None:
    base = sample[:400, :24]
    assert "search" in recorded(lambda: compare(base, n_queries=40, n_components=[4], methods=["pca"]))
    recorded(lambda: sweep(base, n_queries=40, n_components=4, methods=["rae-exact"]))
    plans = recorded(lambda: plan(base, n_bytes=8, n_queries=40, n_candidates=20, codecs=["PCA8,SQ8", "SQ4"]))
    assert any(label.startswith("round 1 of") for label in plans)


def test_files(sample: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sample[:, :32])
    source = open_source(tmp_path / "x.npy")
    assert "scan" in recorded(lambda: NearFold(8, n_steps=5).fit(source).encoder_)
    fold = PCA(8).fit(sample[:, :32]).encoder_
    assert recorded(lambda: apply(fold, source, tmp_path / "z.npy")) == {"fold"}
    assert "search" in recorded(lambda: evaluate(fold, source, sample[:50, :32] + 0.01))
