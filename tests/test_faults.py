"""Full disks, refused permission, swapped names, killed writers: an error, and nothing half-written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from nearfold import Encoder, Pipeline, SearchIndex, fit_pipeline, fold_folder, open_source
from nearfold.errors import FileError
from nearfold.files import replacing
from nearfold.scale.transform import fold_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and links of POSIX")

X = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
ENCODER = Encoder(X[:8])


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return fit_pipeline(X, "NearFold16,SQ8")


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: what a writer sees is what a full disk shows it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


Write = Callable[[Path, Pipeline], object]


def folded(path: Path, suffix: str) -> None:
    np.save(path / "x.npy", X)
    fold_file(ENCODER, open_source(path / "x.npy"), path / "out" / f"z{suffix}")


WRITERS: dict[str, Write] = {
    "encoder": lambda path, _: Encoder(X[:16, :]).save(path / "out" / "fold.safetensors"),
    "pipeline": lambda path, pipeline: pipeline.save(path / "out" / "pipeline.safetensors"),
    "npy": lambda path, _: folded(path, ".npy"),
    "npz": lambda path, _: folded(path, ".npz"),
    "parquet": lambda path, _: folded(path, ".parquet"),
    "arrow": lambda path, _: folded(path, ".arrow"),
    "fvecs": lambda path, _: folded(path, ".fvecs"),
    "index": lambda path, pipeline: SearchIndex.build(pipeline, X).save(path / "out" / "index"),
}


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("limit", [0, 100, 1000])
def test_a_full_disk_leaves_nothing(name: str, limit: int, tmp_path: Path, pipeline: Pipeline) -> None:
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "x.npy", X)
    with files_of_at_most(10**9):
        pass
    save = np.save
    try:
        # The input is there before the disk fills.
        np.save = lambda *_: None  # type: ignore[assignment]
        with files_of_at_most(limit), pytest.raises(FileError, match=r"can't be (written|made)"):
            WRITERS[name](tmp_path, pipeline)
    finally:
        np.save = save
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_writers_write_where_there_is_room(name: str, tmp_path: Path, pipeline: Pipeline) -> None:
    (tmp_path / "out").mkdir()
    WRITERS[name](tmp_path, pipeline)
    assert left(tmp_path / "out")


def test_shards_that_are_there_stay_and_the_next_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for part in range(4):
        np.save(tmp_path / "in" / f"{part}.npy", X[: 500 * (part + 1)])
    with files_of_at_most(40_000), pytest.raises(FileError, match="can't be written"):
        fold_folder(ENCODER, tmp_path / "in", tmp_path / "out")
    assert 0 < len([name for name in left(tmp_path / "out") if name.endswith(".npy")]) < 4
    done = fold_folder(ENCODER, tmp_path / "in", tmp_path / "out")
    assert (done.shards, done.rows) == (4, 5000)
    assert done.written < 4


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="nothing is refused to root")
@pytest.mark.parametrize("name", WRITERS)
def test_permission_denied(name: str, tmp_path: Path, pipeline: Pipeline) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(FileError, match="Permission denied"):
        WRITERS[name](tmp_path, pipeline)


def test_permission_denied_to_another_user(tmp_path: Path) -> None:
    """As root, by giving root up in a process of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    target = tmp_path / "out"
    target.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    code = (
        "import os, numpy as np\n"
        "from nearfold import Encoder\n"
        "from nearfold.errors import FileError\n"
        "encoder = Encoder(np.eye(2, 4, dtype=np.float32))\n"
        "import nearfold.fold, safetensors.numpy\n"
        "os.seteuid(65534)\n"
        "try:\n"
        f"    encoder.save({str(target / 'fold.safetensors')!r})\n"
        "except FileError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "can't be written: Permission denied" in ended.stdout, ended.stderr
    assert left(target) == []


def test_a_link_under_the_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"untouched")
    target = tmp_path / "a.bin"
    with replacing(target) as file:
        file.write(b"new")
        # Swapped while it is being written.
        target.symlink_to(precious)
    assert precious.read_bytes() == b"untouched"
    assert (target.read_bytes(), target.is_symlink()) == (b"new", False)


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """Whether work is done is told by checksums and sizes, not by times."""
    (tmp_path / "in").mkdir()
    for part in range(2):
        np.save(tmp_path / "in" / f"{part}.npy", X)
    fold_folder(ENCODER, tmp_path / "in", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.npy"):
        os.utime(path, (0, 0))
    assert fold_folder(ENCODER, tmp_path / "in", tmp_path / "out").written == 0


def test_a_fork_folds_as_its_parent(tmp_path: Path) -> None:
    """Threads of BLAS don't survive a fork; a child must not wait for them."""
    code = (
        "import os, numpy as np\n"
        "from nearfold import Encoder\n"
        "X = np.random.default_rng(0).standard_normal((20000, 256)).astype('f4')\n"
        "encoder = Encoder(X[:64])\n"
        "z = encoder.transform(X)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if np.allclose(encoder.transform(X), z, rtol=1e-4, atol=1e-3) else 7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.strip() == "0"
