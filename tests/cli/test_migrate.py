"""`migrate`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nearfold import PCA

from .conftest import Run


@pytest.fixture
def encoder(sample: np.ndarray, tmp_path: Path) -> str:
    PCA(32).fit(sample[:, :96]).encoder_.save(tmp_path / "fold.safetensors")
    return "fold.safetensors"


@pytest.mark.databases
@pytest.mark.filterwarnings("ignore")
def test_a_database_is_migrated(encoder: str, sample: np.ndarray, run: Run, tmp_path: Path) -> None:
    import lancedb
    import pyarrow as pa

    lists = pa.array(list(sample[:, :96]), pa.list_(pa.float32(), 96))
    lancedb.connect(tmp_path / "db").create_table("items", pa.table({"vector": lists}))
    asked = ("migrate", encoder, "lancedb:db", "--table", "items")
    looked = run(*asked, "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert "would make  column vector_folded" in looked.stdout
    assert "To search then" in looked.stdout
    done = run(*asked, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert (results["written"], results["dry_run"], results["queries"]) == (len(sample), False, 200)
    assert results["recall"]["mean"] >= 0.95
    again = run(*asked)
    assert f"{len(sample):,} of them folded before" in again.stdout
    assert "10-recall@100" in again.stdout
    refused = run(*asked, "--recall", "1", "--n-candidates", "10")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "--n-candidates" in refused.stderr


def test_an_unknown_database_is_refused(encoder: str, run: Run) -> None:
    ended = run("migrate", encoder, "mysql://here", "--table", "t")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "names no database" in ended.stderr
