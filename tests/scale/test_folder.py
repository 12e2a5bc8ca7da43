"""Folding into a folder: order, columns, checksums, and what happens when runs end early."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import Encoder
from nearfold.errors import FileError, NearfoldError
from nearfold.files import held
from nearfold.io.vectors import open_source, read_vectors
from nearfold.scale.engines import engine_for
from nearfold.scale.folder import Folded, fold_folder
from nearfold.scale.ledger import MANIFEST
from nearfold.scale.local import LocalEngine

ENGINE = engine_for(None, 10**9)


@pytest.fixture
def encoder(rng: np.random.Generator) -> Encoder:
    return Encoder(rng.standard_normal((3, 8)).astype(np.float32))


@pytest.fixture
def parts(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "parts"
    (folder / "deep").mkdir(parents=True)
    start = 0
    for i, rows in enumerate((40, 7, 90, 1, 33)):
        vectors = pa.array(list(rng.standard_normal((rows, 8)).astype(np.float32)), pa.list_(pa.float32()))
        table = pa.table({"id": range(start, start + rows), "v": vectors})
        pq.write_table(table, folder / ("deep" if i == 3 else "") / f"{i}.parquet", row_group_size=16)
        start += rows
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fold(encoder: Encoder, source: Path, out: Path, **options: Any) -> Folded:
    return fold_folder(encoder, open_source(source), out, options.pop("engine", ENGINE), **options)


class Stopping(LocalEngine):
    """An engine that fails behind some shards, as a full disk would."""

    def __init__(self, after: int) -> None:
        super().__init__(10**9)
        self._after = after

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        for i, item in enumerate(items):
            if i == self._after:
                raise FileError("disk full")
            yield function(item)


def test_files_keep_names_order_and_columns(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    done = fold(encoder, parts, tmp_path / "out")
    assert done == Folded(171, 5, 5, ())
    names = ["0.parquet", "1.parquet", "2.parquet", "4.parquet", "deep/3.parquet"]
    assert sorted(content(tmp_path / "out")) == [*names[:4], MANIFEST, names[4]]
    for name in names:
        before, after = pq.read_table(parts / name), pq.read_table(tmp_path / "out" / name)
        assert after.column("id").equals(before.column("id"))
        vectors = np.array(before.column("v").to_pylist(), np.float32)
        np.testing.assert_allclose(
            np.array(after.column("v").to_pylist()), vectors @ encoder.weight.T, rtol=1e-4, atol=1e-5
        )
    # A folder of ours is a folder to read: its manifest is not taken for data.
    assert open_source(tmp_path / "out").layout.rows == 171


def test_the_manifest_tells_checksums(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    fold(encoder, parts, tmp_path / "out", dtype=np.float16)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["rows"], manifest["dtype"], manifest["dimensions"]) == (171, "float16", [8, 3])
    for shard in manifest["shards"]:
        data = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_one_file_becomes_parts(
    encoder: Encoder, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = rng.standard_normal((100, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    monkeypatch.setattr("nearfold.scale.folder._SHARD_BYTES", 32 * 30)
    fold(encoder, tmp_path / "x.npy", tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == [MANIFEST, *(f"part-0000{i}.npy" for i in range(4))]
    np.testing.assert_allclose(read_vectors(tmp_path / "out"), X @ encoder.weight.T, rtol=1e-4, atol=1e-5)
    fold(encoder, tmp_path / "x.npy", tmp_path / "pq", suffix=".parquet")
    assert "part-00003.parquet" in content(tmp_path / "pq")


def test_names_that_differ_in_their_ending_stay_apart(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.ones((3, 8), np.float32))
    np.savez(tmp_path / "in" / "a.npz", v=np.ones((4, 8), np.float32))
    assert fold(encoder, tmp_path / "in", tmp_path / "out").rows == 7
    assert sorted(content(tmp_path / "out")) == [MANIFEST, "a.npy.npy", "a.npz.npy"]


@pytest.mark.parametrize("after", range(6))
def test_a_run_that_failed_is_gone_on_with(after: int, encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    fold(encoder, parts, tmp_path / "whole")
    if after < 5:
        with pytest.raises(FileError, match="disk full"):
            fold(encoder, parts, tmp_path / "out", engine=Stopping(after))
    assert fold(encoder, parts, tmp_path / "out").written == 5 - after % 5
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_finished_run_does_nothing(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    fold(encoder, parts, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert fold(encoder, parts, tmp_path / "out", engine=Stopping(0)) == Folded(171, 5, 0, ())
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_what_a_kill_leaves_is_removed(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    fold(encoder, parts, tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(FileError, match="disk full"):
        fold(encoder, parts, out, engine=Stopping(2))
    # A torn line, a file whose line was not written, and one cut short.
    with (out / ".journal.jsonl").open("ab") as journal:
        journal.write(b'{"source": "2.par')
    (out / "4.parquet").write_bytes(b"other")
    (out / "0.parquet").write_bytes(b"cut")
    assert fold(encoder, parts, out).written == 4
    assert content(out) == content(tmp_path / "whole")


def test_other_work_is_refused(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = Encoder(encoder.weight * 2)
    with pytest.raises(FileError, match="disk full"):
        fold(encoder, parts, out, engine=Stopping(2))
    with pytest.raises(FileError, match="begun by another run"):
        fold(other, parts, out)
    os.utime(parts / "0.parquet", (1, 1))
    with pytest.raises(FileError, match="inputs that have changed"):
        fold(encoder, parts, out)
    done = tmp_path / "done"
    fold(encoder, parts, done)
    with pytest.raises(FileError, match="result of another run"):
        fold(other, parts, done)
    (done / "1.parquet").unlink()
    with pytest.raises(FileError, match=r"1\.parquet is missing"):
        fold(encoder, parts, done)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(FileError, match=r"not empty \(it has mine\.txt\)"):
        fold(encoder, parts, tmp_path / "full")
    with pytest.raises(FileError, match="is the input itself"):
        fold(encoder, parts, parts)


def test_two_runs_refuse_each_other(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    with held(tmp_path / "out"), pytest.raises(FileError, match="another run is writing here"):
        fold(encoder, parts, tmp_path / "out")
    assert fold(encoder, parts, tmp_path / "out").rows == 171


def test_bad_shards_are_named_or_set_aside(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    rows = np.ones((20, 8), np.float32)
    rows[13, 2] = np.nan
    np.save(parts / "nan.npy", rows)
    whole = (parts / "2.parquet").read_bytes()
    (parts / "2.parquet").write_bytes(whole[:2600] + b"\xff" * 1500 + whole[4100:])
    (parts / "5.parquet").write_bytes(whole[:300])
    unreadable: list[tuple[str, NearfoldError]] = []
    source = open_source(parts, on_bad=lambda name, error: unreadable.append((name, error)))
    with pytest.raises(FileError, match=r"2\.parquet: truncated or corrupt .*--skip-bad"):
        fold_folder(encoder, source, tmp_path / "out", ENGINE)
    done = fold_folder(
        encoder, source, tmp_path / "out", ENGINE, suffix=None, skip_bad=True, unreadable=unreadable
    )
    assert (done.rows, done.shards) == (81, 4)
    assert [entry.source for entry in done.set_aside] == ["5.parquet", "2.parquet", "nan.npy"]
    assert "row 13, column 2" in str(done.set_aside[2].error)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert [entry["source"] for entry in manifest["set_aside"]] == ["5.parquet", "2.parquet", "nan.npy"]
    assert not (tmp_path / "out" / "2.parquet").exists()


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_leaves_nothing_wrong(seed: int, encoder: Encoder, tmp_path: Path) -> None:
    """A few kills of a real process; benchmarks/crash.py does hundreds."""
    rng = random.Random(seed)
    encoder.save(tmp_path / "fold.safetensors")
    (tmp_path / "in").mkdir()
    for i in range(30):
        rows = np.random.default_rng(i).standard_normal((2000, 8)).astype(np.float32)
        np.save(tmp_path / "in" / f"{i:02d}.npy", rows)
    fold(encoder, tmp_path / "in", tmp_path / "whole")
    command = [sys.executable, "-m", "nearfold", "apply", "fold.safetensors", "in", "-o", "out"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("out/*.npy")) and running.poll() is None:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    running.send_signal(signal.SIGKILL)
    running.wait()
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
