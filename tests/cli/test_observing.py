"""`--log` and `--profile`: what happened, and where time went."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open

import nearfold

from .conftest import Run


def test_a_log_has_a_line_an_event(base: Path, run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        assert run("--log", "log.jsonl", "fit", base, "-d", "16", "-o", "f.safetensors").returncode == 0
    assert run("--log", "log.jsonl", "fit", base, "-d", "1000", "-o", "f.safetensors").returncode == 2
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("command") == 3
    first = lines[0]
    assert (first["event"], first["nearfold"], first["arguments"][0]) == (
        "command",
        nearfold.__version__,
        "--log",
    )
    ends = [line for line in lines if line["event"] == "end"]
    assert [end["error"] is None for end in ends] == [True, True, False]
    written = [line for line in lines if line["event"] == "wrote"]
    sizes = {Path(line["path"]).name: line["bytes"] for line in written}
    assert sizes["f.safetensors"] == (tmp_path / "f.safetensors").stat().st_size
    stages = {line["label"] for line in lines if line["event"] == "stage"}
    assert stages
    assert all({"time", "level", "event"} <= line.keys() for line in lines)


def test_a_log_that_can_not_be_written_is_refused(base: Path, run: Run) -> None:
    ended = run("--log", "no/log", "fit", base, "-o", "f.safetensors")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no/log: can't be written" in ended.stderr


def test_a_profile_accounts_for_all_the_time(base: Path, run: Run) -> None:
    ended = run("--profile", "compare", base, "--methods", "pca,nearfold", "-d", "16", "--json")
    assert ended.returncode == 0
    json.loads(ended.stdout)
    lines = ended.stderr.splitlines()
    assert "where time went" in lines[0]
    rows = [line.split() for line in lines[2:]]
    (whole,) = [float(row[1]) for row in rows if row[0] == "all"]
    parts = [float(line[: line.rindex("%")].split()[-2]) for line in lines[2:] if "%" in line]
    assert sum(parts) <= whole + 0.1
    assert sum(parts) >= whole - 0.1


def test_files_say_what_made_them(base: Path, run: Run, tmp_path: Path) -> None:
    run("fit", base, "-d", "16", "-o", "f.safetensors")
    with safe_open(tmp_path / "f.safetensors", framework="np") as file:
        assert file.metadata()["nearfold"] == nearfold.__version__
    run("apply", "f.safetensors", base, "-o", "z.parquet")
    origin = json.loads(pq.read_schema(tmp_path / "z.parquet").metadata[b"nearfold"])
    assert origin == {"nearfold": nearfold.__version__, "fold": "Encoder(nearfold, 384 -> 16, cosine)"}
    run("apply", "f.safetensors", base, "-o", "folder")
    manifest = json.loads((tmp_path / "folder" / "_manifest.json").read_text())
    assert manifest["nearfold"] == nearfold.__version__
    assert json.loads(run("inspect", "f.safetensors", "--json").stdout)["version"] == nearfold.__version__
    assert np.load(base).shape[1] == 384
