"""`--qrels`: each command that measures with labels, its table, JSON and page, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nearfold as nf
from tests.cli.conftest import Run

COMMANDS = {
    "eval": ["eval", "fold.safetensors", "base.npy"],
    "compare": ["compare", "base.npy", "--methods", "pca,truncation", "-d", "16"],
    "sweep": ["sweep", "base.npy", "-d", "8", "--methods", "rae-exact", "--lambdas", "1e-6,1e-4"],
    "plan": ["plan", "base.npy", "--ndcg", ".5", "--codecs", "PCA32,SQ8;SQ8"],
}


@pytest.fixture(autouse=True)
def files(fold: Path, base: Path, sample: np.ndarray) -> None:
    """Write queries, labels by row number, and both with ids of their own, beside the base and its fold."""
    home, queries = base.parent, sample[600:640]
    np.save(home / "queries.npy", queries)
    near = np.argsort(-(queries @ np.load(base).astype(np.float32).T), axis=1)
    picked = [np.random.default_rng(q).choice(row[:8], 2, replace=False) for q, row in enumerate(near)]
    rows = [(q, d, g) for q, own in enumerate(picked) if q for d, g in zip(own.tolist(), (2, 1), strict=True)]
    (home / "qrels.txt").write_text("".join(f"{q} 0 {d} {g}\n" for q, d, g in rows))
    lines = "".join(f"q{q}\td{d}\t{g}\n" for q, d, g in rows)
    (home / "named.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    for name, letter, vectors in (("base", "d", np.load(base)), ("queries", "q", queries)):
        columns = {"_id": [f"{letter}{row}" for row in range(len(vectors))], "v": list(vectors)}
        pq.write_table(pa.table(columns), home / f"{name}.parquet")


LABELS = ["--queries", "queries.npy", "--qrels", "qrels.txt"]


@pytest.mark.parametrize("command", COMMANDS)
def test_labels_are_printed_and_written(command: str, run: Run, tmp_path: Path) -> None:
    printed = run(*COMMANDS[command], *LABELS)
    assert printed.returncode == 0, printed.stderr
    assert "over 39 of 40 queries" in " ".join(printed.stdout.split())
    assert "nDCG@10" in printed.stdout
    page = [] if command == "eval" else ["--report", "page.html"]
    done = run(*COMMANDS[command], *LABELS, "--json", *page)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    labels = {
        "eval": lambda: values["labels"],
        "compare": lambda: values["entries"][0]["labels"],
        "sweep": lambda: values["final"]["entries"][0]["labels"],
        "plan": lambda: values["trials"][0]["evaluation"]["labels"],
    }[command]()
    assert labels["judged_queries"] == 39
    columns = {"nDCG@10", "R@10", "MRR@10", "MAP@100"}
    assert columns <= set(labels)
    for column in columns:
        assert 0 < labels[column]["kept"]["low"] <= labels[column]["kept"]["mean"]
        assert set(labels[column]) == {"value", "full", "kept"}
    if page:
        html = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "nDCG@10 kept" in html
        assert "39 of the 40 queries have a relevant one" in html
        assert 'class="beside"' in html


def test_the_command_reports_what_the_library_does(run: Run, base: Path) -> None:
    told = json.loads(run(*COMMANDS["eval"], *LABELS, "--json").stdout)["labels"]
    home = base.parent
    result = nf.evaluate(
        nf.load(home / "fold.safetensors"), base, home / "queries.npy", qrels=home / "qrels.txt"
    )
    assert result.labels is not None
    assert told == json.loads(json.dumps(result.labels.as_dict()))


@pytest.mark.parametrize("command", COMMANDS)
def test_ids_come_from_columns(command: str, run: Run) -> None:
    words = [word.replace("base.npy", "base.parquet") for word in COMMANDS[command]]
    named = ["--qrels", "named.tsv", "--ids", "_id", "--query-ids", "_id", "--queries", "queries.parquet"]

    def evaluated(*arguments: str) -> object:
        done = run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        values = json.loads(done.stdout)
        kinds = {"compare": ["entries"], "sweep": ["final", "entries"], "plan": ["trials"]}
        for key in kinds.get(command, []):
            values = values[key]
        first = values if command == "eval" else values[0]
        return (first["evaluation"] if command == "plan" else first)["labels"]

    assert evaluated(*words, *named) == evaluated(*COMMANDS[command], *LABELS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*COMMANDS["eval"], "--qrels", "qrels.txt"], "--qrels labels queries; name their file by --queries"),
        ([*COMMANDS["compare"], "--ids", "_id"], "--ids and --query-ids say what --qrels names"),
        ([*COMMANDS["compare"], *LABELS, "--rows", "100"], "--qrels needs all 600 rows"),
        ([*COMMANDS["plan"], *LABELS, "--rows", "100"], "--qrels needs all 600 rows"),
        (COMMANDS["plan"], "--ndcg needs --qrels"),
        ([*COMMANDS["plan"], *LABELS, "--bytes", "8"], "one of --bytes, --recall and --ndcg"),
        ([*COMMANDS["eval"], *LABELS, "--ids", "x"], "base.npy: has no column 'x' of ids"),
        ([*COMMANDS["eval"], *LABELS[:3], "fold.safetensors"], "fold.safetensors, line 1: "),
        ([*COMMANDS["eval"], *LABELS[:3], "named.tsv"], "label query 'q1' (and 38 more)"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, run: Run) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
