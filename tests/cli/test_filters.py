"""`search --where`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import SearchIndex, fit_codec

from .conftest import Run


@pytest.fixture
def table(base: Path, tmp_path: Path) -> Path:
    vectors = np.load(base)
    columns = {
        "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
        "price": np.arange(len(vectors)) % 20,
        "number": np.arange(len(vectors)) + 1000,
    }
    pq.write_table(pa.table(columns), tmp_path / "base.parquet")
    codec = fit_codec(vectors, "PCA16,SQ8")
    codec.save(tmp_path / "codec.safetensors")
    SearchIndex.build(codec, vectors).save(tmp_path / "ix")
    SearchIndex.build(codec, vectors, ids=np.arange(len(vectors)) + 1000).save(tmp_path / "named")
    return tmp_path / "base.parquet"


def ids(run: Run, *arguments: object) -> list[list[int]]:
    ended = run("search", *arguments, "-k", "5", "--json")
    assert ended.returncode == 0, ended.stderr
    found: list[list[int]] = json.loads(ended.stdout)["ids"]
    return found


def test_ids_in_a_file(base: Path, table: Path, run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [3, 1, 4, 1, 5]}), tmp_path / "few.parquet")
    found = ids(run, "ix", base, "--where", "few.parquet")
    assert {tuple(sorted(line)) for line in found} == {(-1, 1, 3, 4, 5)}
    # The results of a search are such a file.
    assert run("search", "ix", base, "-k", "1", "--where", "few.parquet", "-o", "r.parquet").returncode == 0
    assert {i for line in ids(run, "ix", base, "--where", "r.parquet") for i in line} <= {-1, 1, 3, 4, 5}


def test_conditions_on_columns(base: Path, table: Path, run: Run) -> None:
    found = np.array(ids(run, "ix", base, "--where", "price < 2", "--columns", table))
    assert (found % 20 < 2).all()
    direct = ids(run, "codec.safetensors", base, "--base", table, "--where", "price < 2")
    assert direct == found.tolist()
    named = ids(run, "named", base, "--where", "price < 2", "--columns", table, "--ids", "number")
    np.testing.assert_array_equal(np.array(named) - 1000, found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--where", "price < 2"), "name the file that has them by --columns"),
        (("--where", "prise < 2", "--columns", "base.parquet"), "there is no column prise"),
        (("--where", "none.parquet"), "none.parquet: can't be read"),
        (("--where", "base.parquet"), "no column 'id' of ids"),
        (("--where", "base.parquet", "--ids", "number"), "where: id 1000 is not in the index"),
        (("--ids", "number"), "--where"),
        (("--columns", "base.parquet"), "--where"),
    ],
)
def test_bad_filters_are_one_line(
    base: Path, table: Path, run: Run, arguments: tuple[str, ...], said: str
) -> None:
    ended = run("search", "ix", base, *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_row_numbers_are_not_taken_for_ids(base: Path, table: Path, run: Run) -> None:
    ended = run("search", "named", base, "--where", "price < 2", "--columns", table)
    assert ended.returncode == 2
    assert "name the column of ids by --ids" in ended.stderr
