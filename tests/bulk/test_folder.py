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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import Encoder
from nearfold._utils.files import held
from nearfold.bulk import folder as folders
from nearfold.bulk.apply import apply
from nearfold.bulk.folder import VerifiedFolder, Written, verify_folder
from nearfold.bulk.manifest import MANIFEST
from nearfold.errors import FileError
from nearfold.io.held import held_rows
from nearfold.io.vectors import open_source
from nearfold.scan.local import LocalEngine


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


def fold(encoder: Encoder, source: Path, out: Path, **options: Any) -> Written:
    engine = options.pop("engine", None)
    if engine is None:
        return apply(encoder, open_source(source), out, **options)
    with mock.patch.object(folders, "engine_for", return_value=engine):
        return apply(encoder, open_source(source), out, **options)


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
    assert done == Written(171, 5, 5, ())
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
    monkeypatch.setattr("nearfold.bulk.folder._SHARD_BYTES", 32 * 30)
    fold(encoder, tmp_path / "x.npy", tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == [MANIFEST, *(f"part-0000{i}.npy" for i in range(4))]
    np.testing.assert_allclose(held_rows(tmp_path / "out"), X @ encoder.weight.T, rtol=1e-4, atol=1e-5)
    fold(encoder, tmp_path / "x.npy", tmp_path / "pq", format="parquet")
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
    assert fold(encoder, parts, tmp_path / "out").new_files == 5 - after % 5
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_finished_run_does_nothing(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    fold(encoder, parts, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert fold(encoder, parts, tmp_path / "out", engine=Stopping(0)) == Written(171, 5, 0, ())
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_what_a_kill_leaves_is_removed(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    fold(encoder, parts, tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(FileError, match="disk full"):
        fold(encoder, parts, out, engine=Stopping(2))
    token = json.loads((out / ".journal.jsonl").read_bytes().split(b"\n")[0])["token"]
    # A torn line, a file whose line was not written, and one whose name was not given.
    with (out / ".journal.jsonl").open("ab") as journal:
        journal.write(b'{"source": "2.par')
    (out / f".{token}.4.parquet").write_bytes(b"half")
    (out / "0.parquet").rename(out / f".{token}.0.parquet")
    assert fold(encoder, parts, out).new_files == 3
    assert content(out) == content(tmp_path / "whole")


def interrupted(encoder: Encoder, parts: Path, out: Path, after: int = 2) -> Path:
    """Fold some shards, and return the journal."""
    with pytest.raises(FileError, match="disk full"):
        fold(encoder, parts, out, engine=Stopping(after))
    return out / ".journal.jsonl"


def test_a_file_that_is_not_of_the_run_is_left_alone(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(encoder, parts, out)
    (out / "4.parquet").write_bytes(b"mine")
    with pytest.raises(FileError, match=r"4\.parquet is in the way and not of this run"):
        fold(encoder, parts, out)
    assert (out / "4.parquet").read_bytes() == b"mine"
    (out / "4.parquet").unlink()
    # One that was written and is now another's.
    kept = (out / "0.parquet").read_bytes()
    (out / "0.parquet").write_bytes(kept[:-1] + b"!")
    with pytest.raises(FileError, match=r"0\.parquet has changed since it was written; remove it"):
        fold(encoder, parts, out)
    assert (out / "0.parquet").read_bytes() == kept[:-1] + b"!"
    (out / "0.parquet").unlink()
    assert fold(encoder, parts, out).new_files == 4
    assert (out / "0.parquet").read_bytes() == kept


def test_a_file_that_appears_during_the_run_is_left_alone(
    encoder: Encoder, parts: Path, tmp_path: Path
) -> None:
    class Meanwhile(LocalEngine):
        def map(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
            for entry in map(function, items):
                if entry.file == "1.parquet":
                    (tmp_path / "out" / "1.parquet").write_bytes(b"mine")
                yield entry

    with pytest.raises(FileError, match=r"1\.parquet is in the way"):
        fold(encoder, parts, tmp_path / "out", engine=Meanwhile(10**9))
    assert (tmp_path / "out" / "1.parquet").read_bytes() == b"mine"


@pytest.mark.parametrize("found", [b"", b"mine", b"mine\n", b'{"plan": "x"}\n', b"[1]\n", b"\xff\n"])
def test_a_journal_of_others_is_left_alone(
    found: bytes, encoder: Encoder, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".journal.jsonl").write_bytes(found)
    with pytest.raises(FileError, match=r"journal\.jsonl: damaged, or not made by nearfold"):
        fold(encoder, parts, out)
    assert content(out) == {".journal.jsonl": found}
    done = tmp_path / "done"
    fold(encoder, parts, done)
    (done / ".journal.jsonl").write_bytes(found)
    assert fold(encoder, parts, done).new_files == 0
    assert (done / ".journal.jsonl").read_bytes() == found


def test_a_shard_that_changed_at_its_size_is_found(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fold(encoder, parts, out)
    assert verify_folder(out) == VerifiedFolder(
        171, 5, sum((out / e).stat().st_size for e in content(out) if e != MANIFEST), 0, 0
    )
    np.save(out / "more.npy", np.ones((2, 3), np.float32))
    assert verify_folder(out).unlisted == 1
    (out / "more.npy").unlink()
    data = bytearray((out / "2.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    times = (out / "2.parquet").stat()
    (out / "2.parquet").write_bytes(data)
    os.utime(out / "2.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    for work in (lambda: verify_folder(out), lambda: fold(encoder, parts, out)):
        with pytest.raises(FileError, match=r"2\.parquet has changed since it was written"):
            work()
    (out / "2.parquet").unlink()
    with pytest.raises(FileError, match=r"2\.parquet is missing"):
        verify_folder(out)
    interrupted(encoder, parts, tmp_path / "half")
    for folder in (tmp_path / "half", parts):
        with pytest.raises(FileError, match="has no _manifest"):
            verify_folder(folder)


def test_inputs_that_changed_after_a_finished_run_are_noticed(
    encoder: Encoder, parts: Path, tmp_path: Path
) -> None:
    fold(encoder, parts, tmp_path / "out")
    table = pq.read_table(parts / "1.parquet")
    pq.write_table(table.set_column(0, "id", pa.array(range(7, 0, -1))), parts / "1.parquet")
    with pytest.raises(FileError, match="inputs that have changed since"):
        fold(encoder, parts, tmp_path / "out")


ODD_MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path upwards": lambda m: m["shards"][0].update(file="../../x"),
    "a path upwards inside": lambda m: m["shards"][0].update(file="deep/../../x"),
    "an absolute path": lambda m: m["shards"][0].update(file="/etc/passwd"),
    "a null byte": lambda m: m["shards"][0].update(file="a\0b"),
    "no name": lambda m: m["shards"][0].update(file=""),
    "its own name": lambda m: m["shards"][0].update(file=MANIFEST),
    "a file twice": lambda m: m["shards"][1].update(file=m["shards"][0]["file"]),
    "a shard twice": lambda m: m["shards"].append(m["shards"][0]),
    "a gap": lambda m: m["shards"][0].update(start=5),
    "rows backwards": lambda m: m["shards"][0].update(start=9, stop=2),
    "rows of one more": lambda m: m["shards"][0].update(stop=m["shards"][0]["stop"] + 1),
    "negative rows": lambda m: m["shards"][0].update(stop=-1),
    "too many rows": lambda m: m["shards"][0].update(stop=1 << 62),
    "endless rows": lambda m: m["shards"][0].update(stop=float("inf")),
    "rows as text": lambda m: m["shards"][0].update(stop="40"),
    "rows as truth": lambda m: m["shards"][0].update(stop=True),
    "rows as a fraction": lambda m: m["shards"][0].update(stop=40.5),
    "another sum": lambda m: m.update(rows=172),
    "no sum": lambda m: m.pop("rows"),
    "no shards": lambda m: m.pop("shards"),
    "shards as a map": lambda m: m.update(shards={}),
    "a shard as text": lambda m: m.update(shards=["0.parquet"]),
    "a digest cut": lambda m: m["shards"][0].update(sha256=m["shards"][0]["sha256"][:-1]),
    "a digest of nothing": lambda m: m["shards"][0].pop("sha256"),
    "bytes below nothing": lambda m: m["shards"][0].update(bytes=-5),
    "an error beside a file": lambda m: m["shards"][0].update(error="bad"),
    "neither file nor error": lambda m: [m["shards"][0].pop(name) for name in ("file", "sha256", "bytes")],
    "set aside with a file": lambda m: m["set_aside"].append(m["shards"][0]),
    "another format": lambda m: m.update(format="nearfold.index"),
    "a later format": lambda m: m.update(format_version=2),
    "a format as truth": lambda m: m.update(format_version=True),
    "no dimensions": lambda m: m.update(dimensions=[0, 3]),
    "one dimension": lambda m: m.update(dimensions=[3]),
    "another type": lambda m: m.update(dtype="object"),
}


@pytest.mark.parametrize("name", ODD_MANIFESTS)
def test_odd_manifests_are_refused(name: str, encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fold(encoder, parts, out)
    manifest = json.loads((out / MANIFEST).read_text())
    ODD_MANIFESTS[name](manifest)
    (out / MANIFEST).write_text(json.dumps(manifest))
    before = content(tmp_path)
    for work in (lambda: verify_folder(out), lambda: fold(encoder, parts, out)):
        with pytest.raises(FileError, match="out"):
            work()
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '"x"', "1", "[" * 100_000, '{"rows": 1, "rows": 2}', "\udcff"]
)
def test_what_is_no_manifest_is_refused(text: str, encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(text, errors="surrogateescape")
    for work in (lambda: verify_folder(tmp_path / "out"), lambda: fold(encoder, parts, tmp_path / "out")):
        with pytest.raises(FileError, match="damaged, or not made by nearfold"):
            work()


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../x"},
        {"file": "/etc/passwd"},
        {"file": "1.parquet"},
        {"start": 1},
        {"stop": 41},
        {"stop": -1},
        {"source": "9.parquet"},
        {"sha256": "no"},
        {"bytes": True},
    ],
)
def test_odd_journals_are_refused(
    change: dict[str, Any], encoder: Encoder, parts: Path, tmp_path: Path
) -> None:
    journal = interrupted(encoder, parts, tmp_path / "out")
    header, first, *rest = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([header, json.dumps({**json.loads(first), **change}).encode(), *rest]))
    before = content(tmp_path)
    with pytest.raises(FileError, match="out"):
        fold(encoder, parts, tmp_path / "out")
    assert content(tmp_path) == before


def test_links_out_of_the_folder_are_refused(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    fold(encoder, parts, out)
    (out / "0.parquet").rename(elsewhere / "0.parquet")
    (out / "0.parquet").symlink_to(elsewhere / "0.parquet")
    with pytest.raises(FileError, match=r"0\.parquet leads out of the folder"):
        verify_folder(out)
    half = tmp_path / "half"
    interrupted(encoder, parts, half)
    (half / "deep").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(FileError, match=r"deep/3\.parquet leads out of the folder"):
        fold(encoder, parts, half)
    assert [path.name for path in elsewhere.iterdir()] == ["0.parquet"]
    (half / "deep").unlink()
    (half / ".journal.jsonl").rename(elsewhere / "journal")
    (half / ".journal.jsonl").symlink_to(elsewhere / "journal")
    with pytest.raises(FileError, match=r"journal\.jsonl is a link"):
        fold(encoder, parts, half)


@pytest.mark.parametrize(
    ("names", "suffix"),
    [
        (("a.npy", "a.npz", "a.npy.npz"), ".npy"),
        (("a.npz", "a.npy/b.npz"), ".npy"),
        (("deep/x.npy", "deep/x.npz", "deep/x.npy.npy"), ".parquet"),
    ],
)
def test_two_inputs_of_one_output_are_refused(
    names: Sequence[str], suffix: str, encoder: Encoder, tmp_path: Path
) -> None:
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.ones((3, 8), np.float32)
        with path.open("wb") as file:
            np.save(file, rows) if name.endswith("npy") else np.savez(file, v=rows)
    with pytest.raises(FileError, match=r"would become .* in the output, as .*in/.* would; rename one"):
        fold(encoder, tmp_path / "in", tmp_path / "out", format=suffix)
    assert not (tmp_path / "out").exists()


def test_names_that_are_one_on_the_disk_are_refused(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.npy", "A.npy", "\u00e9.npy", "e\u0301.npy"):
        np.save(tmp_path / "in" / name, np.ones((3, 8), np.float32))
    assert fold(encoder, tmp_path / "in", tmp_path / "out").files == 4
    # A disk that takes case for nothing.
    exists = Path.exists
    monkeypatch.setattr(
        Path,
        "exists",
        lambda path: exists(path) or exists(path.with_name(path.stem.swapcase() + path.suffix)),
    )
    with pytest.raises(FileError, match=r"(a|A)\.npy: would become"):
        fold(encoder, tmp_path / "in", tmp_path / "again")
    assert content(tmp_path / "again") == {}


def test_a_folder_in_or_around_the_input_is_refused(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    before = content(tmp_path)
    (tmp_path / "link").symlink_to(parts, target_is_directory=True)
    for out in (parts / "folded", parts / "deep", parts / "deep" / ".." / "new", tmp_path / "link" / "new"):
        with pytest.raises(FileError, match="lies in the input folder"):
            fold(encoder, parts, out)
    with pytest.raises(FileError, match="has the input folder"):
        fold(encoder, parts, tmp_path)
    (tmp_path / "link").unlink()
    assert content(tmp_path) == before


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
    with pytest.raises(FileError, match=r"5\.parquet"):
        apply(encoder, parts, tmp_path / "out")
    done = apply(encoder, parts, tmp_path / "out", skip_bad=True)
    assert (done.rows, done.files) == (81, 4)
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
