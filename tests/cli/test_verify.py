"""`nearfold verify`, and indexes whose base was moved, as a user has them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nearfold import fit_codec

from .conftest import Run


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.npy"
    np.save(path, np.random.default_rng(1).standard_normal((300, 24)).astype(np.float32))
    return path


@pytest.fixture
def written(run: Run, base: Path, fold: Path, tmp_path: Path) -> dict[str, Path]:
    """Return something of each kind that nearfold writes."""
    fit_codec(np.load(base).astype(np.float32), "PCA16,SQ8").save(tmp_path / "codec.safetensors")
    lines = (
        ("index", "codec.safetensors", base, "-o", "index"),
        ("apply", fold, base, "-o", "folded"),
        ("fit", base, "-d", "8", "--checkpoint", "scan.safetensors", "-o", "other.safetensors"),
    )
    for line in lines:
        ended = run(*line)
        assert not ended.returncode, ended.stderr
    return {
        "index": tmp_path / "index",
        "folded folder": tmp_path / "folded",
        "scan": tmp_path / "scan.safetensors",
        "nearfold.codec": tmp_path / "codec.safetensors",
        "nearfold.encoder": fold,
    }


def flip(path: Path) -> None:
    """Change one bit of a file, and leave its size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_is_whole_is_said_to_be_and_a_flipped_bit_is_found(
    run: Run, written: dict[str, Path], base: Path
) -> None:
    for kind, path in written.items():
        ended = run("verify", path, "--json")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["kind"] == kind
        assert kind in run("verify", path).stdout
    for kind, path in written.items():
        files = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]
        files += [base] if kind == "index" else []
        for file in files:
            if file.name.endswith(".json"):
                continue
            content = file.read_bytes()
            status = file.stat()
            flip(file)
            ended = run("verify", path)
            assert ended.returncode == 2, file
            (line,) = ended.stderr.strip().splitlines()
            assert file.name in line
            file.write_bytes(content)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert run("verify", path).returncode == 0


def test_a_path_that_holds_nothing_of_nearfold_is_named(run: Run, base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent", base):
        ended = run("verify", path)
        assert ended.returncode == 2
        assert path.name in ended.stderr
    ended = run("verify", base, "--base", base)
    assert ended.returncode == 2


def test_a_moved_base_is_named_by_the_user(run: Run, written: dict[str, Path], base: Path) -> None:
    index, moved = written["index"], base.with_name("moved.npy")
    search = ("search", index, moved, "-k", "3", "--json")
    shutil.move(base, moved)
    ended = run(*search)
    assert ended.returncode == 2
    assert base.name in ended.stderr
    ended = run(*search, "--base", moved)
    assert ended.returncode == 0, ended.stderr
    assert [ids[0] for ids in json.loads(ended.stdout)["ids"][:50]] == list(range(50))
    assert run("verify", index, "--base", moved).returncode == 0
    # A copy has another time, and is told by its content.
    np.save(base, np.load(moved))
    assert run(*search).returncode == 2
    assert run(*search, "--base", base).returncode == 0
    np.save(base, np.load(moved)[::-1])
    ended = run(*search, "--base", base)
    assert ended.returncode == 2
    assert "has changed" in ended.stderr


def test_an_index_in_the_folder_of_its_base_leaves_it(run: Run, tmp_path: Path, base: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    fit_codec(np.load(base).astype(np.float32), "PCA16,SQ8").save(tmp_path / "codec.safetensors")
    own = home / "vectors-000001-0.npy"
    shutil.copyfile(base, own)
    (home / "000002.index.faiss").write_text("theirs")
    for _ in range(3):
        run("index", "codec.safetensors", own, "-o", home)
    assert own.read_bytes() == base.read_bytes()
    assert (home / "000002.index.faiss").read_text() == "theirs"
