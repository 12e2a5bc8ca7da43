"""The one door to files: what is no regular file is refused, and what changes while it is open is told."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nearfold import load
from nearfold.errors import FileError
from nearfold.io.held import held_rows
from nearfold.io.location import Location
from nearfold.io.vectors import FORMATS, open_source

from .test_formats import KINDS, X, written

FILES = [kind for kind in KINDS if kind not in (".lance", " a folder")]


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """A test that waits for a pipe fails, and doesn't hold up the others."""

    def late(_number: int, _frame: object) -> None:
        raise AssertionError("waited for a special file")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("suffix", FORMATS)
def test_pipes_and_devices_are_refused(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zeros{suffix}").symlink_to("/dev/zero")
    for path in sorted(tmp_path.iterdir()):
        for name in (str(path), f"file://{path}", f"local://{path}"):
            with pytest.raises(FileError, match=r"is a (pipe|device)"):
                open_source(name)
    with pytest.raises(FileError, match="is a pipe"):
        open_source(f"simplecache::file://{tmp_path}/pipe{suffix}")


def test_a_pipe_in_a_folder_is_named_not_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    os.mkfifo(tmp_path / "b.npy")
    with pytest.raises(FileError, match=r"b\.npy: is a pipe"):
        open_source(tmp_path)
    noted: list[str] = []
    assert open_source(tmp_path, on_bad=lambda name, _error: noted.append(name)).layout.rows == len(X)
    assert [Path(name).name for name in noted] == ["b.npy"]
    (tmp_path / "b.npy").unlink()
    (tmp_path / "b.npy").symlink_to(tmp_path / "nowhere.npy")
    with pytest.raises(FileError, match=r"b\.npy: can't be read: No such file"):
        open_source(tmp_path)


def test_what_the_kernel_makes_up_is_empty(tmp_path: Path) -> None:
    (tmp_path / "x.npy").symlink_to("/proc/self/environ")
    with pytest.raises(FileError, match="empty"):
        open_source(tmp_path / "x.npy")


def test_encoders_are_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zeros.safetensors").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(FileError, match=r"is a (pipe|device)"):
            load(tmp_path / f"{name}.safetensors")
    with (tmp_path / "vast.safetensors").open("wb") as file:
        file.write((2).to_bytes(8, "little") + b"{}")
        file.truncate(1 << 40)
    with pytest.raises(FileError, match="promises 10 bytes"):
        load(tmp_path / "vast.safetensors")


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_cut_short_or_replaced_is_told(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    whole = path.read_bytes()
    for other in (whole[: len(whole) // 2], whole + whole[-1:] * 24 if kind == ".hdf5" else whole[:-1]):
        path.write_bytes(whole)
        source = open_source(path)
        path.write_bytes(other)
        for read in (lambda s: list(s.chunks(7)), lambda s: s.take(np.array([0, 69]))):
            with pytest.raises(FileError, match=r"changed since it was opened"):
                read(source)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_changes_between_two_chunks_is_told(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    chunks = open_source(path).chunks(3)
    next(chunks)
    os.truncate(path, 100)
    # What was read ahead may still come, before the end is missed; rows from nowhere may not.
    rows = []
    with contextlib.suppress(FileError):
        rows += [chunk.vectors for chunk in chunks]
    for got, start in zip(rows, range(3, 70, 3), strict=False):
        np.testing.assert_array_equal(got, X[start : start + 3])


def test_a_file_that_grew_is_read_as_far_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    source = open_source(path)
    np.save(path, np.concatenate([X, X]))
    np.testing.assert_array_equal(np.concatenate([c.vectors for c in source.chunks(9)]), X)
    np.testing.assert_array_equal(source.take(np.array([3])), X[[3]])
    for other in (np.ones((70, 10), np.float32), np.ones((70, 5)), np.asfortranarray(np.ones((99, 5), "f4"))):
        np.save(path, other)
        with pytest.raises(FileError, match="replaced since"):
            next(source.chunks(9))


def test_a_remote_file_that_is_replaced_is_told(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/grown/x.npy", written(".npy", tmp_path).read_bytes())
    source = open_source("memory://grown/x.npy")
    memory.pipe("/grown/x.npy", b"short")
    with pytest.raises(FileError, match="changed since"):
        next(source.chunks(9))


def test_a_folder_with_the_ending_of_a_file_is_a_folder(tmp_path: Path) -> None:
    """As Spark and Dask write them."""
    (tmp_path / "x.parquet").mkdir()
    written(".parquet", tmp_path / "x.parquet")
    np.testing.assert_array_equal(held_rows(tmp_path / "x.parquet"), X)


def test_more_than_two_gigabytes_are_asked_for_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(100)))
    with Location.of(tmp_path / "x").open() as file:
        assert file.read(10) + file.read(1000) == bytes(range(100))
        file.seek(95)
        assert file.read() == bytes(range(95, 100))
