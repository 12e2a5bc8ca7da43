"""What strangers named reaches the terminal, log and pages as text: no escapes, no markup, no passwords."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.markdown import Markdown
from rich.table import Table

from nearfold import Encoder
from nearfold.cli import app
from nearfold.cli.console import joined, output, print_json, print_mapping, print_text
from nearfold.report.page import Cell, Page, Text

from .conftest import Run

STEERING = "\x1b]0;owned\x07\x1b[2J\x9b\x7f\u202e[/b][red]"
PASSWORD = "Tr0ub4dor"
URL = f"postgresql://ann:{PASSWORD}@127.0.0.1:1/db"


def harmless(text: str) -> bool:
    return not any(character in text for character in "\x1b\x07\x9b\x7f\u202e")


def test_every_door_shows_text_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=STEERING)
    table.add_column(STEERING)
    table.add_row(STEERING)
    for console in (output(), output(stderr=True)):
        for thing in (STEERING, joined(STEERING, (STEERING, "bold")), table, Markdown(STEERING)):
            console.print(thing)
    print_mapping({STEERING: STEERING, "several": [STEERING, f"{STEERING}\nforged  line"]})
    print_text(f"{STEERING}\n")
    print_json({"value": STEERING, "url": URL})
    shown = "".join(capsys.readouterr())
    assert harmless(shown)
    assert shown.count("[/b][red]") >= 10
    assert "\nforged" not in shown
    assert PASSWORD not in shown


def test_a_fold_from_a_stranger_is_inspected(run: Run, tmp_path: Path) -> None:
    fold = Encoder(
        np.eye(2, 3), method=f"m{STEERING}", parameters={STEERING: STEERING}, facts={"x": STEERING}
    )
    fold.save(tmp_path / "f.safetensors")
    for line in (["inspect", "f.safetensors"], ["inspect", "f.safetensors", "--json"]):
        ended = run(*line)
        assert ended.returncode == 0, ended.stderr
        assert harmless(ended.stdout + ended.stderr)
    card = (tmp_path / "f.card.md").read_text(encoding="utf-8")
    assert harmless(card)
    assert r"\[/b\]" in card
    assert "![" not in Encoder(np.eye(2, 3), method="![x](http://host)").card()


@pytest.mark.skipif(sys.platform == "win32", reason="names of POSIX")
def test_odd_names_of_files_are_shown(fold: Path, base: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "o[").mkdir()
    ended = run("apply", fold, base, "-o", "o[/b].npy")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "o[/b].npy" in ended.stdout
    for name in (STEERING, os.fsdecode(b"\xff.npy")):
        ended = run("apply", fold, f"{name}.npy", "-o", "z.npy")
        assert ended.returncode == 2
        assert harmless(ended.stderr)
        assert ended.stderr.count("\n") == 1


def test_a_bug_is_told_without_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app._show_bug(RuntimeError, RuntimeError(f"{URL} {STEERING}"), None)
    told = capsys.readouterr().err
    assert "RuntimeError: postgresql" in told
    assert PASSWORD not in told
    assert harmless(told)


def test_no_password_is_printed_or_logged(fold: Path, run: Run, tmp_path: Path) -> None:
    for url in (URL, URL.replace(PASSWORD, f"x@{PASSWORD}"), URL.replace("gresql", "gre")):
        for option in ([], ["--json"]):
            ended = run("--log", "log.jsonl", "migrate", fold, url, "--table", "t", *option)
            assert ended.returncode == 2
            assert PASSWORD not in ended.stdout + ended.stderr
    log = (tmp_path / "log.jsonl").read_text()
    assert PASSWORD not in log
    assert log.count('"event": "end"') == 6


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_a_log_takes_the_umask_and_keeps_its_mode(run: Run, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run("--log", "log.jsonl", "methods")
    finally:
        os.umask(before)
    log = tmp_path / "log.jsonl"
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    log.chmod(0o600)
    run("--log", "log.jsonl", "methods")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_page_shows_text_as_text() -> None:
    page = Page(STEERING, URL, "", {"x": URL}, f"nearfold migrate {URL}")
    page.add("<b>", Text(f"<script>{STEERING}"))
    html = page.render()
    head = html[: html.index("<style>")] + html[html.index("</style>") : html.index("<footer")]
    assert harmless(head + Cell(STEERING).html())
    assert PASSWORD not in html
    assert "<script>\\x1b" not in html
