"""Some steps of `model`, in each engine."""

from __future__ import annotations

import pytest

from . import model

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", ["duckdb", "lancedb", "postgres", "qdrant"])
def test_changes_between_runs(name: str) -> None:
    with model.engine(name) as make:
        done = model.check(make, examples=4, steps=15, seed=2)
    # A draw without changes would show nothing.
    assert min(done["migrations"], done["rows put"]) > 1
