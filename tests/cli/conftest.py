"""The command line as a user runs it: a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nearfold import PCA

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run_(*arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nearfold", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=120)

    return run_


@pytest.fixture
def base(tmp_path: Path, sample: np.ndarray) -> Path:
    path = tmp_path / "base.npy"
    np.save(path, sample[:600].astype(np.float16))
    return path


@pytest.fixture
def fold(base: Path) -> Path:
    path = base.with_name("fold.safetensors")
    PCA(16).fit(np.load(base)).encoder_.save(path)
    return path
