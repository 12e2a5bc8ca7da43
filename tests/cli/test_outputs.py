"""No command changes what it reads, or what nobody named, whatever its outputs are called."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import pytest
import typer

from nearfold.cli.app import app
from nearfold.cli.paths import Mark, guarded, marks

from .conftest import Run

GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
CALLBACKS = {str(each.name): each.callback for each in app.registered_commands if each.callback}
MARKS = {name: marks(callback) for name, callback in CALLBACKS.items()}

# Parameters of text that name no file: whoever adds one says here that it is none, or gives it a mark.
NO_FILES = {
    *("candidates", "column", "dimensions", "index", "k", "key", "lambdas", "memory", "method", "methods"),
    *("metric", "name", "param", "codecs", "query_column", "regularizer", "scheduler", "shard_format"),
    *("table", "ids", "query_ids"),
}
NEEDED = {
    "migrate": ["--table", "t"],
    "plan": ["--bytes", "8"],
    "export": ["--to", "json"],
    "truncate": ["--dimensions", "2"],
}

Spelling = Callable[[Path], str]


def _linked(path: Path, home: Path | None = None) -> str:
    link = (home or path.parent.parent) / f"link-{path.name}"
    if not link.is_symlink():
        link.symlink_to(path)
    return str(link)


def _twin(path: Path) -> str:
    twin = path.parent.parent / f"twin-{path.name}"
    if not twin.exists():
        twin.hardlink_to(path)
    return str(twin)


SPELLINGS: dict[str, Spelling] = {
    "itself": str,
    "relative": lambda path: os.path.relpath(path, path.parent.parent),
    "dots": lambda path: f"{path.parent}/../{path.parent.name}/./{path.name}",
    "link": _linked,
    "hard link": _twin,
    "through a linked folder": lambda path: f"{_linked(path.parent, path.parent.parent)}/{path.name}",
}


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def arguments(name: str, given: dict[str, str]) -> list[str]:
    """Return a command line with these values of parameters."""
    positional, options = [], []
    for parameter in COMMANDS[name].params:
        if parameter.name in given:
            value = given[parameter.name]
            if parameter.param_type_name == "argument":
                positional.append(value)
            else:
                options += [max(parameter.opts, key=len), value]
    return [name, *positional, *options, *NEEDED.get(name, [])]


def usual(name: str, home: Path) -> dict[str, str]:
    """Return a file for each parameter that is read or written."""
    (home / "in").mkdir(exist_ok=True)
    given = {}
    for parameter, mark in MARKS[name].items():
        if mark is Mark.reads:
            (home / "in" / f"{parameter}.npy").write_bytes(f"{name} reads {parameter}".encode())
            given[parameter] = str(home / "in" / f"{parameter}.npy")
        else:
            given[parameter] = str(home / f"out-{parameter}.npy")
    return given


def read_by(name: str) -> list[str]:
    return [parameter for parameter, mark in MARKS[name].items() if mark is Mark.reads]


def written_by(name: str) -> list[str]:
    return [*(parameter for parameter, mark in MARKS[name].items() if mark is not Mark.reads), "--log"]


def lines(name: str, given: dict[str, str], output: str, value: str) -> list[str]:
    if output == "--log":
        return ["--log", value, *arguments(name, given)]
    return arguments(name, {**given, output: value})


def parts(hint: Any) -> list[Any]:
    return [each for part in get_args(hint) for each in (part, *parts(part))]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_says_what_is_done_with_its_file(name: str) -> None:
    texts = {
        each for each, hint in get_type_hints(CALLBACKS[name]).items() if {str, Path} & {hint, *parts(hint)}
    }
    assert texts <= NO_FILES | MARKS[name].keys()
    assert hasattr(CALLBACKS[name], "__wrapped__")


def test_a_path_without_a_mark_is_no_command() -> None:
    def careless(out: Annotated[Path | None, typer.Option()] = None) -> None: ...

    with pytest.raises(TypeError, match="out is a path"):
        guarded(careless)


@pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")
@pytest.mark.parametrize("name", [name for name in COMMANDS if read_by(name)])
def test_an_output_that_is_an_input_is_refused(name: str, run: Run, tmp_path: Path) -> None:
    given = usual(name, tmp_path)
    for which, output in enumerate(written_by(name)):
        for number, source in enumerate(read_by(name)):
            # Every spelling once; all outputs and inputs are seen by the same check.
            for how in SPELLINGS if number == which == 0 else ("link",):
                value = SPELLINGS[how](Path(given[source]))
                before = tree(tmp_path)
                value = f"duckdb:{value}" if output == "where" else value
                ended = run(*lines(name, given, output, value))
                assert ended.returncode == 2, (output, source, how)
                assert "is the input itself" in ended.stderr, (output, source, how, ended.stderr)
                assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in COMMANDS if read_by(name)])
def test_an_output_in_an_input_folder_is_refused(name: str, run: Run, tmp_path: Path) -> None:
    given = usual(name, tmp_path)
    (tmp_path / "far.npy").write_bytes(b"named by a link")
    (tmp_path / "in" / "link.npy").symlink_to(tmp_path / "far.npy")
    given[read_by(name)[-1]] = str(tmp_path / "in")
    before = tree(tmp_path)
    for output in written_by(name):
        for place in ("in/below/new", "in/../in/x.npy", "far.npy", "in"):
            value = f"lancedb:{tmp_path / place}" if output == "where" else str(tmp_path / place)
            ended = run(*lines(name, given, output, value))
            assert ended.returncode == 2, (output, place)
            assert "input" in ended.stderr, (output, place, ended.stderr)
            assert tree(tmp_path) == before
            assert not (tmp_path / "in" / "below").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_two_outputs_are_two_files(name: str, run: Run, tmp_path: Path) -> None:
    given = usual(name, tmp_path)
    first, *others = written_by(name)
    before = tree(tmp_path)
    for other in others:
        for same in ("same.npy", "SAME.npy"):
            value = str(tmp_path / "same.npy")
            named = {**given, first: f"duckdb:{value}" if first == "where" else value}
            ended = run(*lines(name, named, other, f"{tmp_path}/{same}"))
            assert ended.returncode == 2
            assert "two outputs" in ended.stderr or "is the input itself" in ended.stderr
            assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in COMMANDS if MARKS[name]])
def test_a_dash_and_impossible_names_are_refused(name: str, run: Run, tmp_path: Path) -> None:
    given = usual(name, tmp_path)
    before = tree(tmp_path)
    for parameter in [*MARKS[name], "--log"]:
        # One of them each: all parameters are seen by the same check.
        for value in ("-", "a\0b", "\ud800") if parameter == "--log" else ("-",):
            ended = run(*lines(name, given, parameter, value))
            assert ended.returncode == 2, (parameter, value)
            assert ended.stderr.count("\n") == 1, (parameter, value, ended.stderr)
            assert tree(tmp_path) == before


def test_names_that_no_system_takes_are_one_line(fold: Path, base: Path, run: Run) -> None:
    for long in ("x" * 300 + ".npy", "y/" * 3000 + "z.npy"):
        for line in (["apply", fold, base, "-o", long], ["apply", fold, long, "-o", "z.npy"]):
            ended = run(*line)
            assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


def test_a_log_goes_into_a_log_alone(fold: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / "numbers.json").write_text("[1]\n")
    for foreign in ("notes.txt", "numbers.json", fold, tmp_path):
        before = tree(tmp_path)
        ended = run("--log", foreign, "methods")
        assert ended.returncode == 2
        assert "name another file for the log" in ended.stderr or "can't be written" in ended.stderr
        assert tree(tmp_path) == before
    for _ in range(2):
        assert run("--log", "log.jsonl", "methods").returncode == 0
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_a_card_replaces_cards_alone(base: Path, run: Run, tmp_path: Path) -> None:
    fit = ("fit", base, "--method", "pca", "-d", "4", "-o", "f.safetensors", "--no-drift-baseline")
    (tmp_path / "f.card.md").write_text("# Mine\n\nnotes\n")
    ended = run(*fit)
    assert ended.returncode == 0
    assert "no card of nearfold" in ended.stderr
    assert (tmp_path / "f.card.md").read_text() == "# Mine\n\nnotes\n"
    (tmp_path / "f.card.md").unlink()
    for dimensions in ("4", "5"):
        assert run(*fit, "-d", dimensions).stderr == ""
        assert f"to {dimensions} dimensions" in (tmp_path / "f.card.md").read_text()


def test_saved_encoders_replace_their_own_alone(base: Path, run: Run, tmp_path: Path) -> None:
    compare = ("compare", base, "--methods", "pca", "-d", "4", "--rows", "60", "--save", "encoders")
    home = tmp_path / "encoders"
    for seed in (0, 1):
        assert run(*compare, "--seed", seed).returncode == 0
    path = home / "pca-cosine-4.safetensors"
    mine = run("fit", base, "--method", "pca", "-d", "4", "-o", path, "--no-drift-baseline")
    assert mine.returncode == 0
    before = tree(tmp_path)
    ended = run(*compare)
    assert ended.returncode == 2
    assert "was not written by an earlier run" in ended.stderr
    assert tree(tmp_path) == before
    (home / "encoders.json").write_text(json.dumps({"format": "x", "files": {}}))
    assert run(*compare).returncode == 2
