"""`plan`, `index`, `search` and `apply` of a codec, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nearfold import fit_codec

from .conftest import Run


def test_plan_apply_index_search(base: Path, run: Run, tmp_path: Path) -> None:
    options = ("--codecs", "NearFold24,SQ8;NearFold48,SQ4;PCA8,SQ8", "--report", "plan.html")
    planned = run("plan", base, "--bytes", "24", "-o", "pipe.safetensors", "--json", *options)
    assert planned.returncode == 0, planned.stderr
    said = json.loads(planned.stdout)
    assert said["chosen"] in ("NearFold24,SQ8", "NearFold48,SQ4")
    assert "<h2>Recommended</h2>" in (tmp_path / "plan.html").read_text()
    table = run("plan", base, "--bytes", "24", *options[:2])
    assert "recommended" in table.stdout
    applied = run("apply", "pipe.safetensors", base, "-o", "codes.npy", "--json")
    assert applied.returncode == 0, applied.stderr
    assert json.loads(applied.stdout)["bytes_per_vector"] == [768, 24]
    codes = np.load(tmp_path / "codes.npy")
    assert codes.dtype == np.uint8
    assert codes.shape == (600, 24)
    made = run("index", "pipe.safetensors", base, "-o", "ix", "--json", "--certify")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["vectors"] == 600
    found = json.loads(run("search", "ix", base, "-k", "3", "--json").stdout)
    assert [ids[0] for ids in found["ids"]] == list(range(600))
    proven = json.loads(run("search", "ix", base, "-k", "3", "--json", "--certified").stdout)
    assert [ids[0] for ids in proven["ids"]] == list(range(600))
    assert run("search", "ix", base, "-k", "3", "-o", "found.parquet").returncode == 0
    rows = pq.read_table(tmp_path / "found.parquet").to_pydict()
    assert len(rows["id"]) == 1800
    assert rows["rank"][:3] == [0, 1, 2]
    listed = run("search", "ix", base, "-k", "3").stdout.splitlines()
    assert [line.split()[1] for line in listed[1:]] == [str(i) for i in range(600)]
    direct = json.loads(run("search", "pipe.safetensors", base, "--base", base, "-k", "3", "--json").stdout)
    assert direct["ids"] == found["ids"]


def test_a_codec_is_inspected(base: Path, run: Run, tmp_path: Path) -> None:
    fit_codec(np.load(base), "PCA16,SQ8").save(tmp_path / "pipe.safetensors")
    said = json.loads(run("inspect", "pipe.safetensors", "--json").stdout)
    assert (said["spec"], said["bytes_per_vector"], said["n_features"]) == ("PCA16,SQ8", 16, 384)
    assert "PCA16,SQ8" in run("inspect", "pipe.safetensors").stdout
    refused = run("inspect", "pipe.safetensors", base)
    assert refused.returncode == 2
    assert "holds a codec" in refused.stderr


def test_bad_input_is_one_line(base: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "none.safetensors").write_bytes(b"x")
    for command in (
        ("plan", base),
        ("plan", base, "--bytes", "24", "--codecs", "Foo12,SQ8"),
        ("index", "none.safetensors", base, "-o", "ix"),
        ("search", "ix", base),
        ("search", base, base),
        ("search", "ix", base, "-o", "found.csv"),
        ("search", "none.safetensors", base),
        ("apply", "none.safetensors", base, "-o", "z.npy"),
    ):
        ended = run(*command)
        assert ended.returncode == 2, command
        assert ended.stdout == ""
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert not (tmp_path / "ix").exists()
