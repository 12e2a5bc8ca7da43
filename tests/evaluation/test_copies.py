"""Queries that are rows of the base: noticed, said, and avoided where a file keeps queries of its own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nearfold import evaluate
from nearfold._utils.arrays import METRICS, Metric
from nearfold.cli.app import app
from nearfold.cli.inputs import read_queries
from nearfold.errors import NearfoldWarning
from nearfold.evaluation.compare import compare
from nearfold.evaluation.drift import drift, drift_stats, with_drift_stats
from nearfold.evaluation.inspection import inspect
from nearfold.evaluation.sweep import sweep
from nearfold.methods.registry import make
from nearfold.planning.plan import plan

ROWS = np.random.default_rng(11).standard_normal((700, 12)).astype(np.float32)
BASE, ASKED = ROWS[:600], ROWS[600:]
FOLD = make("pca", 4).fit(BASE).encoder_
SAID = "of the 100 queries are rows of the base"


def mixed(copies: int) -> np.ndarray:
    """Return 100 queries, some of which are base rows."""
    return np.concatenate([BASE[:copies], ASKED[copies:]])


@pytest.mark.parametrize("metric", METRICS)
def test_copies_are_counted(metric: Metric, tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", BASE)
    count = "at least (29|30)" if metric == "ip" else "30"
    for base in (BASE, tmp_path / "base.npy"):
        with pytest.warns(NearfoldWarning, match=f"^{count} {SAID}.*give queries that are not in the base"):
            evaluate(FOLD, base, mixed(30), metric=metric, k=[1])
        # One in a hundred, and fewer than two.
        evaluate(FOLD, base, mixed(1), metric=metric)


def test_multiples_are_copies_for_cosine_alone() -> None:
    with pytest.warns(NearfoldWarning, match=f"100 {SAID}"):
        evaluate(FOLD, BASE, 3.7 * BASE[:100])
    evaluate(FOLD, BASE, 3.7 * BASE[:100], metric="l2")
    evaluate(FOLD, BASE, BASE[:100] + 1e-3, metric="cosine")


@pytest.mark.parametrize(
    "look",
    [
        lambda: compare(BASE, queries=mixed(5), n_components=[4], methods=["pca"], metrics=["cosine", "l2"]),
        lambda: sweep(BASE, queries=mixed(5), n_components=4, methods=["rae-exact"], weight_decays=[1e-6]),
        lambda: plan(BASE, queries=mixed(5), n_bytes=12, codecs=["SQ8"]),
        lambda: inspect(FOLD, BASE, mixed(5)),
    ],
)
def test_whatever_evaluates_says_so_once(look: Callable[[], object]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        look()
    assert [str(each.message).partition(",")[0] for each in caught] == [f"5 {SAID} themselves"]


def test_drift_says_that_new_rows_repeat_themselves() -> None:
    known = with_drift_stats(FOLD, drift_stats(FOLD, ROWS))
    with pytest.warns(NearfoldWarning, match="queries are rows of the base"):
        drift(known, np.repeat(ROWS[:250], 2, axis=0))
    drift(known, ROWS)


@pytest.fixture
def benchmark(tmp_path: Path) -> str:
    """Return a file as ann-benchmarks makes them."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["train"], file["test"], file["extra"] = BASE, ASKED, BASE[:100]
    return str(path)


def test_a_file_with_queries_is_asked_with_them(benchmark: str) -> None:
    np.testing.assert_array_equal(read_queries(benchmark), ASKED)
    np.testing.assert_array_equal(read_queries(benchmark, "train"), ASKED)
    np.testing.assert_array_equal(read_queries(benchmark, None, "train"), BASE)
    np.testing.assert_array_equal(read_queries(benchmark, "extra"), BASE[:100])


def test_eval_of_a_file_against_itself(benchmark: str, tmp_path: Path) -> None:
    FOLD.save(tmp_path / "fold.safetensors")
    command = ["eval", str(tmp_path / "fold.safetensors"), benchmark, "--queries", benchmark, "--json"]
    asked = CliRunner().invoke(app, command)
    assert asked.exit_code == 0, asked.output
    found = json.loads(asked.stdout)
    assert found["queries"] == 100
    assert found["recall@10"]["mean"] == pytest.approx(evaluate(FOLD, BASE, ASKED).recall[10].mean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warned = CliRunner().invoke(app, [*command, "--query-column", "extra"])
    assert json.loads(warned.stdout)["queries"] == 100
