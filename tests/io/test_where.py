"""Conditions on the columns of a table, and files of ids."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfold.errors import FileError, NearfoldError, ParameterError
from nearfold.io.where import condition, matching_rows, read_ids

DAYS = [datetime.date(2024, 1, day) for day in (1, 2, 3, 4)]
TABLE = pa.table(
    {
        "price": [1.0, 20.0, None, 5.0],
        "lang": ["en", "de", None, "fr"],
        "n": pa.array([1, 2, 3, 4], pa.int8()),
        "ok": [True, False, None, True],
        "day": DAYS,
        "at": pa.array([datetime.datetime.combine(day, datetime.time()) for day in DAYS]),
        "cost": pa.array([1, 2, 3, 4]).cast(pa.decimal128(22, 2)),
        "kind": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "in euro": [1, 2, 3, 4],
        "made": [{"by": 1}, {"by": 2}, {"by": None}, {"by": 4}],
        "key": [40, 30, 20, 10],
    }
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "t.parquet", row_group_size=3)
    return tmp_path / "t.parquet"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("price < 10", [0, 3]),
        ("10 > price", [0, 3]),
        (" price != 20", [0, 3]),
        ("price is None", [2]),
        ("price is not None and n >= 2", [1, 3]),
        ("price < n", []),
        ("1 < n <= 3", [1, 2]),
        ("n > -1 and not n == 2", [0, 2, 3]),
        ("n > 1.5 or lang == 'en'", [0, 1, 2, 3]),
        ("n < 1000", [0, 1, 2, 3]),
        ("n in (1, 2.5)", [0]),
        ("n not in [1]", [1, 2, 3]),
        ('lang in ("en", "de")', [0, 1]),
        ('lang not in {"en"}', [1, 3]),
        ('not lang == "en"', [1, 3]),
        ("ok", [0, 3]),
        ("not ok", [1]),
        ("ok == True", [0, 3]),
        ("day <= '2024-01-02'", [0, 1]),
        ("day in ('2024-01-02', '2024-01-09')", [1]),
        ("at > '2024-01-02T12:00:00'", [2, 3]),
        ("cost < 2.5", [0, 1]),
        ("cost == '2'", [1]),
        ('kind == "x"', [0, 2]),
        ('kind in ("x", "z")', [0, 2]),
        ('field("in euro") == 3', [2]),
        ("made.by > 1", [1, 3]),
        ('field("made", "by") is None', [2]),
    ],
)
def test_conditions_are_met_by_the_rows_that_meet_them(table: Path, text: str, rows: list[int]) -> None:
    found = matching_rows(table, text)
    assert found.ids.tolist() == rows
    assert found.rows == 4
    assert matching_rows(table, text, "key").ids.tolist() == [[40, 30, 20, 10][row] for row in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no condition"),
        ("price <", "is no condition"),
        ("price = 10", "is no condition"),
        ("x\0", "is no condition"),
        ("not " * 3000 + "ok", "is no condition"),
        ("1 if ok else 0", "no comparison"),
        ('__import__("os").system("x")', "no comparison"),
        ("[n for n in (1, 2)]", "no comparison"),
        ("n", "column n alone"),
        ("n + 1 > 2", r"n \+ 1 is no column"),
        ('open("x") > 1', "is no column"),
        ("n == None", "None is no column"),
        ("n is lang", "compares with None"),
        ("n in lang", "needs a list"),
        ("n in ()", "needs a list"),
        ("n in (1, None)", "None is no column"),
        ("lang in ('en', 1)", "of several types"),
        ("n > 'a'", "'a' is no int8"),
        ("n > 99999999999999999999", "is no"),
        ("day > '2024-13-01'", "is no date"),
        ("lang > 3", "can't be compared"),
        ("made == 1", "can't be compared"),
        ("prise < 10", "no column prise; there are price, lang"),
        ("made.of < 10", r"no column made\.of"),
        ("price.of < 10", r"no column price\.of"),
    ],
)
def test_what_is_no_condition_is_refused(table: Path, text: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        matching_rows(table, text)


@settings(
    max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(max_size=40) | st.from_regex(r"(price|n|lang|ok|made)( ?(<|==|in|is|and|,|\(|1|'a'))*"))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        condition(text, TABLE.schema)
    except ParameterError as error:
        assert "where" in str(error)  # noqa: PT017


def test_folders_and_arrow_files_are_read_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(TABLE, folder / "a.parquet")
    pyarrow.feather.write_feather(TABLE.drop_columns(["made"]), folder / "b.arrow")
    found = matching_rows(folder, "n == 2")
    assert found.ids.tolist() == [1, 5]
    assert found.rows == 8
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    for path, said in (
        (tmp_path / "x.npy", "name a Parquet or Arrow file"),
        (tmp_path / "none.parquet", "can't be read"),
    ):
        with pytest.raises(FileError, match=said):
            matching_rows(path, "n == 2")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(FileError, match=r"bad\.parquet: truncated or damaged"):
        matching_rows(tmp_path / "bad.parquet", "n == 2")
    with pytest.raises(FileError, match=r"bad\.parquet: truncated or no Parquet"):
        read_ids(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("columns", "name", "wanted"),
    [
        ({"whatever": [3, 1, 2]}, None, [3, 1, 2]),
        ({"id": pa.array([3, 1], pa.uint32()), "score": [0.5, 0.5]}, None, [3, 1]),
        ({"id": [3, 1], "key": [7, 8]}, "key", [7, 8]),
        ({"id": []}, None, "null"),
        ({"id": pa.array([], pa.int64())}, None, []),
        ({"a": [1], "b": [2]}, None, "no column 'id' of ids; name one by --ids: its columns are a, b"),
        ({"id": [1]}, "key", "no column 'key'"),
        ({"id": [0.5]}, None, "ids are whole numbers"),
        ({"id": [1, None]}, None, "with 1 nulls"),
        ({"id": ["1"]}, None, "ids are whole numbers"),
        ({"id": pa.array([2**64 - 1], pa.uint64())}, None, "beyond"),
    ],
)
def test_ids_are_read(tmp_path: Path, columns: dict[str, Any], name: str | None, wanted: Any) -> None:
    pq.write_table(pa.table(columns), tmp_path / "ids.parquet")
    if isinstance(wanted, list):
        assert read_ids(tmp_path / "ids.parquet", name).tolist() == wanted
        return
    with pytest.raises(NearfoldError, match=wanted):
        read_ids(tmp_path / "ids.parquet", name)
