"""Relevance labels from files: every format gives the same labels, and bad lines are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfold.errors import DataError, FileError
from nearfold.io.qrels import checked_qrels, read_qrels

IDS = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=8)
QRELS = st.dictionaries(
    IDS, st.dictionaries(IDS, st.integers(-2, 1000), min_size=1, max_size=4), min_size=1, max_size=4
)


def lines(labels: dict[str, dict[str, int]]) -> list[tuple[str, str, int]]:
    return [(query, document, grade) for query, own in labels.items() for document, grade in own.items()]


def write(path: Path, kind: str, labels: dict[str, dict[str, int]]) -> None:
    rows = lines(labels)
    if kind == "trec":
        text = "".join(f"{query} 0  {document}\t{grade}\r\n" for query, document, grade in rows)
    elif kind == "tsv":
        text = "query-id\tcorpus-id\tscore\n\n" + "\n".join("\t".join(map(str, row)) for row in rows)
    elif kind == "other tsv":
        text = "Rel\tdoc_id\tnote\tQID\n" + "".join(f"{g}\t{d}\t\t{q}\n" for q, d, g in rows)
    elif kind == "jsonl":
        objects = ({"query-id": q, "corpus-id": d, "score": g, "title": "t"} for q, d, g in rows)
        text = "".join(json.dumps(each) + "\n" for each in objects)
    else:
        queries, documents, grades = zip(*rows, strict=True)
        columns = {"query_id": queries, "corpus_id": documents, "score": np.array(grades, float), "n": grades}
        pq.write_table(pa.table(columns), path)
        return
    path.write_bytes(text.encode())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=QRELS)
@pytest.mark.parametrize("kind", ["trec", "tsv", "other tsv", "jsonl", "parquet"])
def test_every_format_holds_the_same(kind: str, labels: dict[str, dict[str, int]], tmp_path: Path) -> None:
    if kind == "trec" and next(iter(labels)).startswith("{"):
        # The first line of a TREC file would be one of jsonl.
        labels = {"q": {"d": 1}, **labels}
    path = tmp_path / "labels"
    write(path, kind, labels)
    assert read_qrels(path) == labels
    assert checked_qrels(labels) == labels


def test_ids_that_are_numbers_are_text(tmp_path: Path) -> None:
    table = pa.table({"qid": [7, 7], "docno": [1, 2], "relevance": [1, 0]})
    pq.write_table(table, tmp_path / "labels.parquet")
    wanted = {"7": {"1": 1, "2": 0}}
    assert read_qrels(str(tmp_path / "labels.parquet")) == wanted
    assert checked_qrels({np.int64(7): {1: 1, 2: 0.0}}) == wanted


def test_a_mark_of_utf8_and_a_label_twice_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(b"\xef\xbb\xbf1 0 2 1\n1 0 2 1\n")
    assert read_qrels(path) == {"1": {"2": 1}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no labels"),
        ("query-id\tcorpus-id\tscore\n", "holds no labels"),
        ("1 0 2\n", "line 1: has 3 fields; a TREC line has four"),
        ("query-id\tscore\n1\t1\n", "line 1: has 2 fields"),
        ("1 0 2 1\n\n1 0 3\n", "line 3: has 3 fields where"),
        ("1 0 2 1\n1 0 3 good\n", "line 2: grade 'good' must be a whole number"),
        ("1 0 2 .5\n", "line 1: grade '.5'"),
        ("1 0 2 1001\n", "line 1: grade '1001'"),
        ("1 0 2 nan\n", "line 1: grade 'nan'"),
        ("1 0 2 1\n1 0 2 2\n", "line 2: document '2' has grade 2 for query '1', and 1 before"),
        ("query-id\tcorpus-id\tscore\n1\t2\n", "line 2: has 2 fields"),
        ("query-id\tcorpus-id\tscore\n\t2\t1\n", "line 2: '' is no id"),
        ('{"query-id": 1, "score": 1}\n', "line 1: its fields are query-id, score"),
        ('{"qid": 1, "docid": 2, "score": 1}\n{"qid": 1\n', "line 2: is no JSON object"),
        ('{"qid": [], "docid": 2, "score": 1}\n', "line 1: .* is no id"),
        ('{"qid": 1, "docid": 2, "score": null}\n', "line 1: grade None"),
        ('{"qid": 1, "docid": 2, "score": true}\n', "line 1: grade True"),
        (b"1 0 2 1\n1 0 \xff 1\n", "line 2: is not UTF-8"),
        (b"PAR1 and no more", "can't be read as labels"),
    ],
)
def test_bad_lines_are_named(content: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileError, match=rf"labels\.txt.*{said}"):
        read_qrels(path)


def test_bad_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"query": [1], "text": ["x"]}), path)
    with pytest.raises(FileError, match=r"labels\.parquet: its columns are query, text"):
        read_qrels(path)
    pq.write_table(pa.table({"query": [1, 1], "doc": [1, None], "score": [1, 1]}), path)
    with pytest.raises(FileError, match=r"labels\.parquet, row 1: None is no id"):
        read_qrels(path)
    with pytest.raises(FileError, match="No such file"):
        read_qrels(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({}, "holds no labels"),
        ({"q": {}}, "holds no labels"),
        ({"q": ["d"]}, "query 'q' has"),
        ({"q": {"d": "high"}}, "query 'q': grade 'high'"),
        ({None: {"d": 1}}, "None is no id"),
    ],
)
def test_bad_mappings_are_named(labels: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        checked_qrels(labels)  # type: ignore[arg-type]
