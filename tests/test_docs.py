"""Every code block of the documentation runs, page by page, from top to bottom in an empty folder."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfold.cli.app import main

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "```" in page.read_text(encoding="utf-8")]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$(\n\{: \.(\w+) \})?", re.DOTALL | re.MULTILINE)
# tests/integrations/test_codec_arrays.py runs the JavaScript.
LANGUAGES = {"python", "sh", "text", "js"}

# Pages that need more than the tests of the documentation install.
NEEDS = {"how-to/databases.md": pytest.mark.databases}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for language, code, _, mark in BLOCK.findall(page.read_text(encoding="utf-8")):
        # Marked so where a server would be needed; tests/integrations/databases runs such commands.
        yield ("text" if mark == "shell" else language), code


def run_commands(code: str) -> str:
    """Run the lines of a shell block, and return what they print."""
    printed = io.StringIO()
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "nearfold", line
        sys.argv = words
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, line
    return printed.getvalue()


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=NEEDS.get(name_of(page), pytest.mark.docs))
        for page in PAGES
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    names: dict[str, object] = {}
    printed = ""
    for language, code in blocks(page):
        assert language in LANGUAGES, f"a block of {language or 'no language'}"
        if language == "sh":
            run_commands(code)
        elif language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(code, str(page), "exec"), names)
            printed = output.getvalue()
        elif printed:
            # What stands below Python is what it prints.
            assert printed == code
            printed = ""


def test_every_block_is_found() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert 2 * len(BLOCK.findall(text)) == len(re.findall(r"^```", text, re.MULTILINE)), page
