"""What is registered has docs and tests: one file adds a method, format or database, this wants the rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nearfold.codecs.quantizers.registry import NAMES, QUANTIZERS, family_of
from nearfold.codecs.spec import parse_spec
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


@pytest.mark.parametrize("name", NAMES)
def test_quantizers(name: str) -> None:
    stem = name.removesuffix("<bytes>")
    spec = parse_spec(name.replace("<bytes>", "24")).quantizer
    family = family_of(spec)
    assert name in family.names
    assert family.__doc__
    assert mentions("codecs", family.__name__)
    documented = (ROOT / "docs/how-to/plan-bytes.md").read_text(encoding="utf-8")
    assert f"`{stem}`" in documented


def test_quantizers_have_names_of_their_own() -> None:
    for name in NAMES:
        text = name.replace("<bytes>", "24")
        assert sum(family.parse(text) is not None for family in QUANTIZERS) == 1


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
