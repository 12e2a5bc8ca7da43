"""Full disks, refused permission, swapped names, killed writers: an error, and nothing half-written."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nearfold import Codec, fit_codec
from nearfold._utils.files import replacing
from nearfold.bulk.apply import apply
from nearfold.errors import FileError
from tests import faulting
from tests.faulting import ENCODER, WRITERS, X, files_of_at_most, left

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and links of POSIX")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return fit_codec(X, "NearFold16,SQ8")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("limit", [0, 100, 1000])
def test_a_full_disk_leaves_nothing(name: str, limit: int, tmp_path: Path, codec: Codec) -> None:
    with files_of_at_most(limit), pytest.raises(FileError, match=r"can't be (written|made)"):
        WRITERS[name](tmp_path, codec)
    assert left(tmp_path) == {}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_writers_write_where_there_is_room(name: str, tmp_path: Path, codec: Codec) -> None:
    WRITERS[name](tmp_path, codec)
    assert left(tmp_path)


def test_what_was_there_stays_when_a_sync_or_a_rename_fails(codec: Codec) -> None:
    counts = faulting.Counts()
    faulting.failing_calls(counts, codec, 8, random.Random(0))
    faulting.full_disks(counts, codec, 3, random.Random(0))
    assert counts.lost == 0


def test_threads_get_the_answers_of_one(codec: Codec) -> None:
    counts = faulting.Counts()
    faulting.threads_fold(counts, codec, 3)
    faulting.threads_change(counts, codec, 20)
    assert counts.lost == 0


def test_shards_that_are_there_stay_and_the_next_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for part in range(4):
        np.save(tmp_path / "in" / f"{part}.npy", X[: 500 * (part + 1)])
    with files_of_at_most(40_000), pytest.raises(FileError, match="can't be written"):
        apply(ENCODER, tmp_path / "in", tmp_path / "out")
    assert 0 < len([name for name in left(tmp_path / "out") if name.endswith(".npy")]) < 4
    done = apply(ENCODER, tmp_path / "in", tmp_path / "out")
    assert (done.files, done.rows) == (4, 5000)
    assert done.new_files < 4


def test_a_folder_that_can_not_grow_stays_whole(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "0.npy", X)
    apply(ENCODER, tmp_path / "in", tmp_path / "out")
    np.save(tmp_path / "in" / "1.npy", X)
    before = left(tmp_path / "out")
    with files_of_at_most(100), pytest.raises(FileError, match="can't be written"):
        apply(ENCODER, tmp_path / "in", tmp_path / "out")
    assert left(tmp_path / "out") == before
    # Where there is room for the journal and not for the shard.
    with files_of_at_most(20_000), pytest.raises(FileError, match="can't be written"):
        apply(ENCODER, tmp_path / "in", tmp_path / "out")
    assert {name for name in left(tmp_path / "out") if name.endswith(".npy")} == {"0.npy"}
    assert apply(ENCODER, tmp_path / "in", tmp_path / "out").new_files == 1


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="nothing is refused to root")
@pytest.mark.parametrize("name", WRITERS)
def test_permission_denied(name: str, tmp_path: Path, codec: Codec) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="Permission denied"):
        WRITERS[name](tmp_path, codec)


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
        "import nearfold.folds.fold, safetensors.numpy\n"
        "os.seteuid(65534)\n"
        "try:\n"
        f"    encoder.save({str(target / 'fold.safetensors')!r})\n"
        "except FileError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "can't be written: Permission denied" in ended.stdout, ended.stderr
    assert left(target) == {}


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
    apply(ENCODER, tmp_path / "in", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.npy"):
        os.utime(path, (0, 0))
    assert apply(ENCODER, tmp_path / "in", tmp_path / "out").new_files == 0


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
