"""Some steps of `model`, in each engine."""

from __future__ import annotations

import pytest

from . import model

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", ["duckdb", "lancedb", "postgres", "qdrant"])
def test_changes_between_runs(name: str) -> None:
    with model.engine(name) as make:
        # Lance writes a version a change: a step takes ten times as long as elsewhere.
        done = model.check(make, examples=1 if name == "lancedb" else 4, steps=15, seed=2)
    # A draw without changes would show nothing.
    assert min(done["migrations"], done["rows put"] + done["rows replaced"]) > 1
