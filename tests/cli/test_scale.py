"""The commands on folders and files of any size."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from nearfold import Encoder
from nearfold.scan.checkpoint import ScanCheckpoint

from .conftest import Run


@pytest.fixture
def parts(tmp_path: Path, sample: np.ndarray) -> Path:
    (tmp_path / "parts").mkdir()
    rows = sample[np.random.default_rng(0).permutation(len(sample))]
    for i, part in enumerate(np.array_split(rows[:1200], 3)):
        kind = pa.list_(pa.float32())
        table = pa.table({"id": range(400 * i, 400 * i + len(part)), "v": pa.array(list(part), kind)})
        pq.write_table(table, tmp_path / "parts" / f"{i}.parquet", row_group_size=150)
    np.save(tmp_path / "later.npy", rows[900:])
    np.save(tmp_path / "other.npy", rows[900:, ::-1])
    return tmp_path / "parts"


def fitted(run: Run, *more: str) -> dict[str, object]:
    options = ("-d", "48", "-o", "f", "-p", "n_steps=30", "--checkpoint", "scan", "--json")
    done = run("fit", "parts", *options, *more)
    assert done.returncode == 0, done.stderr
    facts: dict[str, object] = json.loads(done.stdout)["facts"]
    return facts


def test_a_folder_from_fit_to_drift(parts: Path, run: Run, tmp_path: Path) -> None:
    assert fitted(run)["rows"] == 1200
    applied = json.loads(run("apply", "f", "parts", "-o", "folded", "--json").stdout)
    assert (applied["rows"], applied["files"], applied["new_files"]) == (1200, 3, 3)
    again = json.loads(run("apply", "f", "parts", "-o", "folded", "--json").stdout)
    assert again["new_files"] == 0
    ids = pq.read_table(tmp_path / "folded").column("id").to_pylist()
    assert ids == list(range(1200))
    judged = json.loads(run("eval", "f", "parts", "--json").stdout)
    assert (judged["rows"], judged["queries"]) == (1080, 120)
    assert judged["recall@10"]["mean"] > 0.4
    same = run("drift", "f", "later.npy", "--json", "--max-drop", ".15", "--max-loss-rise", "1")
    assert (same.returncode, json.loads(same.stdout)["drifted"]) == (0, False)
    other = run("drift", "f", "other.npy")
    assert other.returncode == 1
    assert "past its limit" in other.stdout
    assert run("drift", "f", "other.npy", "--json").returncode == 1
    assert "sample of 500" in run("inspect", "f").stdout


def test_update(parts: Path, run: Run, tmp_path: Path) -> None:
    fitted(run)
    tried = json.loads(
        run("update", "f", "other.npy", "--checkpoint", "scan", "-o", "g", "--dry-run", "--json").stdout
    )
    assert (tried["refitted"], tried["written"], tried["rows"]) == (True, False, [1200, 1800])
    assert not (tmp_path / "g").exists()
    done = run("update", "f", "other.npy", "--checkpoint", "scan", "-o", "g")
    assert done.returncode == 0, done.stderr
    assert "1200 -> 1800" in done.stdout
    assert ScanCheckpoint.load(tmp_path / "scan").rows == 1800
    assert Encoder.load(tmp_path / "g").facts["rows"] == 1800
    doubled = run("update", "g", "other.npy", "--checkpoint", "scan", "-o", "g")
    assert (doubled.returncode, doubled.stderr.count("\n")) == (2, 1)
    kept = run("update", "g", "later.npy", "--checkpoint", "scan", "-o", "h", "--min-gain", "1", "--json")
    assert json.loads(kept.stdout)["refitted"] is False
    assert (tmp_path / "h").read_bytes() == (tmp_path / "g").read_bytes()


def test_bad_shards(parts: Path, run: Run, tmp_path: Path) -> None:
    fitted(run)
    (parts / "1.parquet").write_bytes(b"not parquet")
    refused = run("apply", "f", "parts", "-o", "folded")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "1.parquet" in refused.stderr
    skipped = run("apply", "f", "parts", "-o", "folded", "--skip-bad")
    assert skipped.returncode == 0
    assert "1.parquet" in skipped.stdout
    assert run("fit", "parts", "-d", "8", "-o", "g").returncode == 2


def test_a_method_that_holds_its_rows_draws_a_sample_that_fits(parts: Path, run: Run) -> None:
    options = ("--method", "rae", "-p", "n_steps=5", "--no-drift-baseline")
    done = run("fit", "parts", "-d", "8", "-o", "g", *options, "--memory", "1MB", "--json")
    assert done.returncode == 0, done.stderr
    assert "drawn at random, stand for its 1,200" in done.stderr
    assert json.loads(done.stdout)["facts"]["rows"] < 1200


def test_options_that_do_not_fit(parts: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfold.scan.dask._CONNECT", "1s")
    for arguments, says in (
        (
            ("fit", "parts", "-o", "g", "--method", "rae", "--checkpoint", "s"),
            "checkpoint is for methods that scan",
        ),
        (
            ("fit", "parts", "-o", "g", "--method", "rae", "--scheduler", "tcp://127.0.0.1:9"),
            "--scheduler is for methods that scan all rows of a file; rae learns",
        ),
        (
            ("fit", "parts", "-o", "g", "--rows", "500", "--scheduler", "tcp://127.0.0.1:9"),
            "nearfold with --rows learns from rows in memory",
        ),
        (("fit", "parts", "-o", "g", "--memory", "much"), "--memory 'much'"),
        (("fit", "parts", "-o", "g", "--memory", "250MB"), "too little for this scan"),
        (("apply", "f", "parts", "-o", "z.npy", "--skip-bad"), "output to a folder of shards"),
        (("apply", "f", "parts", "-o", "z", "--format", "txt"), ".txt can't be written"),
        (("apply", "f", "parts", "-o", "z", "--scheduler", "tcp://127.0.0.1:9"), "no Dask scheduler answers"),
        (("drift", "f", "parts/0.parquet"), "give at least 500"),
        (("update", "f", "later.npy", "--checkpoint", "copy", "-o", "g"), "not the checkpoint of a scan"),
    ):
        if arguments[0] != "fit" and not (parts.parent / "f").exists():
            fitted(run)
            (parts.parent / "copy").write_bytes((parts.parent / "f").read_bytes())
        done = run(*arguments)
        assert done.returncode == 2, done.stdout
        assert done.stderr.count("\n") == 1
        assert says in done.stderr


def test_a_sample_of_rows(parts: Path, run: Run) -> None:
    done = run(
        "fit", "parts", "-d", "8", "-o", "g", "--method", "rae", "--rows", "300", "-p", "n_steps=20", "--json"
    )
    assert json.loads(done.stdout)["facts"]["rows"] == 300


def test_a_cluster(parts: Path, run: Run, tmp_path: Path) -> None:
    fitted(run)
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster:
        address = cluster.scheduler_address
        spread = ["-d", "48", "-o", "g", "-p", "n_steps=30", "--scheduler", address]
        assert run("fit", "parts", *spread).returncode == 0
        assert run("apply", "f", "parts", "-o", "z", "--scheduler", address).returncode == 0
    alone, found = (Encoder.load(tmp_path / name).weight for name in "fg")
    assert np.abs(alone - found).max() < 1e-4 * np.abs(alone).max()
    assert len(list((tmp_path / "z").glob("*.parquet"))) == 3


def test_a_killed_fit_goes_on(sample: np.ndarray, process: Run, tmp_path: Path) -> None:
    """A state is written at the end of a scan; training that is killed begins with it."""
    np.save(tmp_path / "x.npy", sample)
    command = [
        sys.executable,
        "-m",
        "nearfold",
        "fit",
        "x.npy",
        "-d",
        "48",
        "-o",
        "f",
        "--checkpoint",
        "scan",
    ]
    slow = subprocess.Popen([*command, "-p", "n_steps=100000"], cwd=tmp_path)
    while not (tmp_path / "scan").exists() and slow.poll() is None:
        time.sleep(0.01)
    os.kill(slow.pid, signal.SIGKILL)
    slow.wait()
    assert not (tmp_path / "f").exists()
    before = (tmp_path / "scan").stat().st_mtime_ns
    shutil.copy(tmp_path / "scan", tmp_path / "copy")
    done = subprocess.run([*command, "-p", "n_steps=20"], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scan").stat().st_mtime_ns >= before
    assert Encoder.load(tmp_path / "f").n_components == 48
