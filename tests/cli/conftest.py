"""The command line as a user runs it: in a process of its own, or in this one where that is as good."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nearfold import PCA
from nearfold.cli.app import main

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: half a second sooner, for the same output and status."""

    def run_(*arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = ["nearfold", *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        status: object = None
        with (
            monkeypatch.context() as patch,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", command)
            patch.chdir(cwd)
            try:
                main()
            except SystemExit as end:
                status = end.code
        assert isinstance(status, int)
        return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())

    return run_


@pytest.fixture
def process(tmp_path: Path) -> Run:
    """Run a command in a process of its own."""

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
