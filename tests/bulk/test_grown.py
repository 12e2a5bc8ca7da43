"""Folding into a folder again after its input has got new files."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import Encoder, fit_codec
from nearfold.bulk import folder as folders
from nearfold.bulk.apply import apply
from nearfold.bulk.folder import verify_folder
from nearfold.bulk.manifest import MANIFEST
from nearfold.errors import FileError, NearfoldWarning
from nearfold.io.held import held_rows
from nearfold.io.vectors import open_source
from tests.bulk.test_folder import Stopping

JOURNAL = ".journal.jsonl"


@pytest.fixture
def encoder(rng: np.random.Generator) -> Encoder:
    return Encoder(rng.standard_normal((3, 8)).astype(np.float32))


@pytest.fixture(params=["fold", "codec"])
def applied(request: pytest.FixtureRequest, encoder: Encoder, rng: np.random.Generator) -> Any:
    if request.param == "fold":
        return encoder
    return fit_codec(rng.standard_normal((400, 8)).astype(np.float32), "PCA4,SQ8")


def write(folder: Path, name: str, rows: int = 20, seed: int | None = None) -> None:
    vectors = np.random.default_rng(sum(name.encode()) if seed is None else seed)
    X = vectors.standard_normal((rows, 8)).astype(np.float32)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".npy"):
        np.save(path, X)
    elif name.endswith(".npz"):
        np.savez(path, v=X)
    else:
        ids = [f"{name}:{row}" for row in range(rows)]
        pq.write_table(pa.table({"id": ids, "v": pa.array(list(X), pa.list_(pa.float32()))}), path)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in (".npy", ".parquet")}


def stopped(applied: Any, source: Path, out: Path, after: int) -> None:
    """Fold some shards, and fail as a full disk would."""
    engine = Stopping(after)
    with (
        mock.patch.object(folders, "engine_for", return_value=engine),
        pytest.raises(FileError, match="disk full"),
    ):
        apply(applied, source, out)


@pytest.fixture(params=["npy", "parquet"])
def grown(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[str]]:
    """A folder, and the names of the files that it has and will get: see `grow`."""
    names = [f"{day}.{request.param}" for day in ("02-01", "02-02", "03/01", "04-01", "05-01")]
    for name in names[:3]:
        write(tmp_path / "in", name)
    return tmp_path / "in", names


def grow(grown: tuple[Path, list[str]]) -> None:
    source, names = grown
    for name in names[3:]:
        write(source, name, rows=7)


def test_new_files_are_folded_and_the_others_left(
    applied: Any, grown: tuple[Path, list[str]], tmp_path: Path
) -> None:
    source, out = grown[0], tmp_path / "out"
    assert apply(applied, source, out).new_files == 3
    before = times(out)
    grow(grown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = apply(applied, source, out)
    assert (done.rows, done.files, done.new_files) == (74, 5, 2)
    after = times(out)
    assert {name: after[name] for name in before} == before
    apply(applied, source, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    assert verify_folder(out)[:2] == (74, 5)
    assert apply(applied, source, out).new_files == 0


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("second", [0, 1])
def test_interrupted_before_and_after_it_grew(
    first: int, second: int, applied: Any, grown: tuple[Path, list[str]], tmp_path: Path
) -> None:
    source, out = grown[0], tmp_path / "out"
    if first < 3:
        stopped(applied, source, out, first)
    else:
        apply(applied, source, out)
    grow(grown)
    stopped(applied, source, out, second)
    assert not (out / MANIFEST).exists()
    with pytest.raises(FileError, match="has no _manifest"):
        verify_folder(out)
    write(source, "06" + grown[1][0][2:])
    assert apply(applied, source, out).new_files == 6 - first - second
    apply(applied, source, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_a_kill_between_journal_and_manifest(
    encoder: Encoder, grown: tuple[Path, list[str]], tmp_path: Path
) -> None:
    source, out = grown[0], tmp_path / "out"
    apply(encoder, source, out)
    finished = (out / MANIFEST).read_bytes()
    grow(grown)
    stopped(encoder, source, out, 0)
    (out / MANIFEST).write_bytes(finished)
    # The input may have grown further, or be again what it was.
    for name in grown[1][3:]:
        (source / name).rename(tmp_path / name)
    before = content(out)
    assert apply(encoder, source, out).new_files == 0
    assert content(out) == {name: data for name, data in before.items() if name != JOURNAL}
    for name in grown[1][3:]:
        (tmp_path / name).rename(source / name)
    (out / JOURNAL).write_bytes(before[JOURNAL])
    write(source, "07" + grown[1][0][2:])
    assert apply(encoder, source, out).new_files == 3
    apply(encoder, source, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("change", ["rows", "values", "time", "gone"])
def test_an_old_file_that_changed_or_went_is_refused(
    change: str, finished: bool, applied: Any, grown: tuple[Path, list[str]], tmp_path: Path
) -> None:
    source, out = grown[0], tmp_path / "out"
    if finished:
        apply(applied, source, out)
    else:
        stopped(applied, source, out, 2)
    grow(grown)
    old = source / grown[1][1]
    kept, stamp = old.read_bytes(), old.stat()
    if change == "gone":
        old.unlink()
    elif change == "time":
        os.utime(old, (1, 1))
    else:
        write(source, grown[1][1], rows=21 if change == "rows" else 20, seed=5)
    before = content(out)
    said = "are gone or can't be read any more" if change == "gone" else "have changed since"
    todo = "put back what was there, or name an empty folder"
    with pytest.raises(FileError, match=f"out: .* inputs that {said}: {grown[1][1]}; {todo}"):
        apply(applied, source, out)
    assert content(out) == before
    old.write_bytes(kept)
    os.utime(old, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert apply(applied, source, out).new_files == (2 if finished else 3)


def test_a_file_without_a_shard_may_change(encoder: Encoder, tmp_path: Path) -> None:
    """A new file that could not be folded can be mended or removed, whatever else is in the folder."""
    source, out = tmp_path / "in", tmp_path / "out"
    write(source, "1.npy")
    apply(encoder, source, out)
    bad = np.full((4, 8), np.nan, np.float32)
    np.save(source / "2.npy", bad)
    np.save(source / "3.npy", bad)
    with pytest.raises(FileError, match=r"2\.npy"):
        apply(encoder, source, out)
    write(source, "2.npy")
    (source / "3.npy").unlink()
    done = apply(encoder, source, out)
    assert (done.rows, done.new_files) == (40, 1)


def test_files_set_aside_are_looked_at_again(encoder: Encoder, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write(source, "1.npy")
    np.save(source / "2.npy", np.full((4, 8), np.nan, np.float32))
    (source / "3.npy").write_bytes(b"no vectors")
    write(source, "4.npy")

    def fold() -> tuple[int, int, list[str]]:
        done = apply(encoder, source, out, skip_bad=True)
        assert not any(entry.input for entry in done.set_aside)
        return done.rows, done.new_files, [entry.source for entry in done.set_aside]

    assert fold() == (40, 2, ["3.npy", "2.npy"])
    write(source, "5.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fold() == (60, 1, ["3.npy", "2.npy"])
    # Another file that can't be opened adds no shard, and is told all the same.
    (source / "6.npy").write_bytes(b"no vectors")
    assert fold() == (60, 0, ["3.npy", "6.npy", "2.npy"])
    assert fold() == (60, 0, ["3.npy", "6.npy", "2.npy"])
    write(source, "2.npy")
    with pytest.warns(NearfoldWarning, match=r"of 2\.npy come before those of 4\.npy"):
        assert fold() == (80, 1, ["3.npy", "6.npy"])
    write(source, "3.npy")
    (source / "6.npy").unlink()
    with pytest.warns(NearfoldWarning, match=r"of 3\.npy come before those of 4\.npy"):
        assert fold() == (100, 1, [])
    np.testing.assert_allclose(held_rows(out), held_rows(source) @ encoder.weight.T, rtol=1e-4, atol=1e-5)


def test_rows_stay_in_the_order_of_the_inputs_names(encoder: Encoder, tmp_path: Path) -> None:
    """10.npy comes before 5.npy, in the input, in the output and in the manifest; a warning says so."""
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("1.npy", "5.npy", "7.npy"):
        write(source, name)
    apply(encoder, source, out)
    for name in ("10.npy", "8.npy"):
        write(source, name, rows=3)
    said = r"of 10\.npy come before those of 5\.npy, which were there: row numbers from there on are higher"
    with pytest.warns(NearfoldWarning, match=said):
        assert apply(encoder, source, out).new_files == 2
    shards = json.loads((out / MANIFEST).read_text())["shards"]
    assert [shard["source"] for shard in shards] == ["1.npy", "10.npy", "5.npy", "7.npy", "8.npy"]
    assert [Path(part.path).name for part in open_source(out).parts] == [shard["file"] for shard in shards]
    np.testing.assert_allclose(held_rows(out), held_rows(source) @ encoder.weight.T, rtol=1e-4, atol=1e-5)
    verify_folder(out)


def test_a_new_file_that_would_rename_others_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write(source, "a.npy")
    write(source, "b.npy")
    apply(encoder, source, out)
    before = content(out)
    write(source, "a.npz")
    said = r"a\.npy, which was written to a\.npy and would become a\.npy\.npy .*; rename the new input"
    with pytest.raises(FileError, match=said):
        apply(encoder, source, out)
    # Of the first name, so that it would choose the format of all.
    (source / "a.npz").rename(source / "0.npz")
    with pytest.raises(FileError, match=r"would become a\.parquet .*; give the format npy \(--format\)"):
        apply(encoder, source, out)
    assert content(out) == before
    with pytest.warns(NearfoldWarning, match=r"of 0\.npz come before those of a\.npy"):
        assert apply(encoder, source, out, format="npy").new_files == 1


def test_a_file_that_went_is_named_before_those_that_its_name_moved(encoder: Encoder, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write(source, "a.npy")
    write(source, "a.npz")
    apply(encoder, source, out)
    (source / "a.npz").unlink()
    with pytest.raises(FileError, match=r"inputs that are gone or can't be read any more: a\.npz;"):
        apply(encoder, source, out)


@pytest.mark.parametrize("finished", [True, False])
def test_what_else_is_refused_still_is(finished: bool, encoder: Encoder, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("1.npy", "2.npy"):
        write(source, name)
    if finished:
        apply(encoder, source, out)
    else:
        stopped(encoder, source, out, 1)
    write(source, "3.npy")
    before = content(out)
    for other, options in ((Encoder(encoder.weight * 2), {}), (encoder, {"dtype": "float16"})):
        with pytest.raises(FileError, match="another run"):
            apply(other, source, out, **options)
    (out / "3.npy").write_bytes(b"mine")
    with pytest.raises(FileError, match=r"3\.npy is in the way and not of this run"):
        apply(encoder, source, out)
    (out / "3.npy").unlink()
    kept = before["1.npy"]
    (out / "1.npy").write_bytes(kept[:-1] + b"!")
    with pytest.raises(FileError, match=r"1\.npy has changed since it was written"):
        apply(encoder, source, out)
    (out / "1.npy").write_bytes(kept)
    if finished:
        (out / JOURNAL).write_bytes(b"mine")
        with pytest.raises(FileError, match=r"journal\.jsonl is in the way and not of this run"):
            apply(encoder, source, out)
        assert content(out) == {**before, JOURNAL: b"mine"}
        (out / JOURNAL).unlink()
    assert content(out) == before
    assert apply(encoder, source, out).files == 3


def test_a_file_that_got_more_rows_is_refused(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are added to one file change it; new files are what makes a folder grow."""
    monkeypatch.setattr("nearfold.bulk.folder._SHARD_BYTES", 32 * 30)
    write(tmp_path, "x.npy", rows=60)
    apply(encoder, tmp_path / "x.npy", tmp_path / "out")
    write(tmp_path, "x.npy", rows=90)
    with pytest.raises(FileError, match=r"inputs that have changed since: x\.npy;"):
        apply(encoder, tmp_path / "x.npy", tmp_path / "out")


def test_folders_of_earlier_versions_grow(encoder: Encoder, tmp_path: Path) -> None:
    """Their manifests have one digest of all inputs, and their journals name no work apart from inputs."""
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("1.npy", "2.npy"):
        write(source, name)
    apply(encoder, source, out)
    manifest = json.loads((out / MANIFEST).read_text())
    for shard in manifest["shards"]:
        del shard["input"]
    (out / MANIFEST).write_text(json.dumps(manifest))
    assert apply(encoder, source, out).new_files == 0
    write(source, "3.npy")
    stamp = (source / "2.npy").stat()
    os.utime(source / "2.npy", (1, 1))
    with pytest.raises(FileError, match="holds the result of inputs that have changed since"):
        apply(encoder, source, out)
    os.utime(source / "2.npy", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert apply(encoder, source, out).new_files == 1
    assert all("input" in shard for shard in json.loads((out / MANIFEST).read_text())["shards"])

    half = tmp_path / "half"
    stopped(encoder, source, half, 2)
    header, *lines = (half / JOURNAL).read_bytes().splitlines()
    old = [
        {k: v for k, v in json.loads(line).items() if k not in ("work", "input")} for line in (header, *lines)
    ]
    (half / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in old))
    write(source, "4.npy")
    with pytest.raises(FileError, match="was begun by another run"):
        apply(encoder, source, half)
    (source / "4.npy").unlink()
    assert apply(encoder, source, half).new_files == 1
