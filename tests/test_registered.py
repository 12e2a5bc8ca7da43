"""What is registered has docs and tests: one file adds a method, format or database, this wants the rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nearfold.integrations.databases.stores import DATABASES
from nearfold.io.vectors import FORMATS
from nearfold.methods.registry import METHODS

ROOT = Path(__file__).parents[1]


def mentions(folder: str, word: str) -> bool:
    """Whether a test below a folder has a word."""
    files = (ROOT / "tests" / folder).rglob("test_*.py")
    return any(re.search(rf"\b{re.escape(word)}\b", file.read_text(encoding="utf-8")) for file in files)


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    method = METHODS[name]
    said = method.estimator.__doc__ or ""
    for section in ("Parameters\n", "Examples\n"):
        assert section in said, f"{method.estimator.__name__}'s docstring has no {section.strip()}"
    assert method.summary
    assert mentions("methods", method.estimator.__name__) or mentions("methods", name), (
        f"no test names {name}"
    )


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(suffix: str) -> None:
    assert f"`{suffix}`" in (ROOT / "docs/reference/files.md").read_text(encoding="utf-8")
    files = (ROOT / "tests/io").glob("test_*.py")
    assert any(f'"{suffix}"' in file.read_text(encoding="utf-8") for file in files)


@pytest.mark.parametrize("scheme", DATABASES)
def test_databases(scheme: str) -> None:
    module = DATABASES[scheme]
    assert module.NAMED in (ROOT / "docs/how-to/databases.md").read_text(encoding="utf-8").replace("`", "")
    assert (ROOT / f"tests/integrations/databases/test_{module.__name__.rpartition('.')[2]}.py").is_file()
