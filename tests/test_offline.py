"""Nothing is sent or fetched: the main job runs where no socket can be opened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CODE = """
import socket, sys

class Refused(socket.socket):
    def __init__(self, family=-1, *rest, **named):
        if family not in (getattr(socket, "AF_UNIX", None),):
            raise AssertionError("a socket was opened")
        super().__init__(family, *rest, **named)

socket.socket = Refused
socket.create_connection = socket.getaddrinfo = None
from nearfold.cli.app import main
main()
"""


def test_the_main_job_opens_no_socket(tmp_path: Path) -> None:
    for arguments in (
        ["demo", "--help"],
        ["compare", "base.npy", "--methods", "pca,nearfold", "-d", "8", "--report", "page.html"],
        ["fit", "base.npy", "-d", "8", "-o", "fold.safetensors"],
        ["apply", "fold.safetensors", "base.npy", "-o", "z.npy"],
    ):
        if not (tmp_path / "base.npy").exists():
            import numpy as np

            np.save(tmp_path / "base.npy", np.random.default_rng(0).standard_normal((300, 32)))
        ended = subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=[\"']?(https?:)?//", page)
