"""Wheel and sdist as a stranger gets them: built, installed in a clean environment, run end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parents[1]


def call(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_wheel_works(tmp_path: Path) -> None:
    # The wheel is built from the sdist, so that nothing may be missing there.
    call(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("nearfold-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sample = sum(i.compress_size for i in archive.infolist() if "/sample/" in i.filename)
    assert sample < 5_000_000
    for part in ("nearfold/py.typed", "nearfold/sample/LICENSE.wordnet", "licenses/LICENSE"):
        assert any(name.endswith(part) for name in names), part

    venv.create(tmp_path / "env", with_pip=True)
    python, nearfold = (tmp_path / "env" / "bin" / name for name in ("python", "nearfold"))
    call(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    results = json.loads(call(nearfold, "demo", "-d", "48", "--json", cwd=tmp_path))
    kept = {entry["method"]: entry["recall@10"]["mean"] for entry in results["entries"]}
    assert max(kept, key=kept.__getitem__) == "nearfold"
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 384)).astype(np.float16))
    call(
        nearfold,
        "apply",
        "nearfold-demo/nearfold-cosine-48.safetensors",
        "x.npy",
        "-o",
        "z.npy",
        cwd=tmp_path,
    )
    assert np.load(tmp_path / "z.npy").shape == (50, 48)

    (sdist,) = tmp_path.glob("nearfold-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    # Its own tests, against what is installed; with all threads, of which the other tests have one.
    call(python, "-m", "pip", "install", "--quiet", "pytest", "hypothesis", "pandas", "polars", cwd=tmp_path)
    tests = (
        "tests/test_encoder.py",
        "tests/scan/test_moments.py",
        "tests/test_arrays.py",
        "tests/scan/test_neighbors.py",
        "tests/scan/test_scan.py",
        "tests/methods/test_pca.py",
        "tests/methods/test_rae.py",
        "tests/methods/test_nearfold.py",
        "tests/scan/test_fit.py",
    )
    told = call(python, "-m", "pytest", "-q", *tests, cwd=unpacked)
    assert " passed" in told
    assert " failed" not in told
