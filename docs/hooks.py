"""What is made when the site is built: the reference of the commands, and pages of files of the root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.main import get_command

from nearfold.cli.app import app
from nearfold.methods.registry import METHODS

PAGE = "reference/commands.md"
# Where the page of estimators has them.
ESTIMATORS = "ESTIMATORS"
# Pages that hold nothing but a line that names a file of the repository's root.
PROJECT = "project/"
INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=commands()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put every registered estimator on their page, and files of the repository on theirs."""
    if page.file.src_uri.startswith(PROJECT):
        return INCLUDED.sub(lambda line: included(line[1]), markdown)
    return markdown.replace(f"\n{ESTIMATORS}\n", f"\n{estimators()}\n")


def included(name: str) -> str:
    """Return a file of the repository's root, with links that are right on the page that shows it."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](../")
    # The root's files have pages beside each other, in lower case.
    return re.sub(r"\]\(([A-Z]+\.md)", lambda link: f"]({link[1].lower()}", text)


def estimators() -> str:
    """Return the estimators' references: linear ones first, of those the strongest."""
    # The table has simple ones first.
    strongest = list(METHODS.values())[::-1]
    ranked = sorted(strongest, key=lambda method: not method.linear)
    classes = dict.fromkeys(method.estimator for method in ranked)
    return "\n".join(f"::: {each.__module__}.{each.__qualname__}" for each in classes)


def commands() -> str:
    """Return every command with its arguments and options as Markdown."""
    root: Any = get_command(app)
    parts = [
        "# Commands\n",
        "Results go to standard output, and alone as JSON with `--json`; progress and errors go to standard "
        "error. Exit status: 0, or 2 after one line that says what was wrong, or 130 after an interrupt; "
        "`drift` ends with 1 where vectors have drifted.\n",
        "Before a command's name: `--log FILE` appends a JSON line an event, `--profile` says at the end "
        "where time went.\n",
    ]
    for name, command in root.commands.items():
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        options = [param for param in command.params if param.param_type_name != "argument"]
        usage = " ".join(param.metavar or param.name.upper() for param in arguments)
        parts += [
            f"## {name}\n",
            f"```text\nnearfold {name} {f'{usage} ' if usage else ''}[OPTIONS]\n```\n",
            f"{command.help}\n",
        ]
        parts += ["| option | |", "|---|---|"]
        for param in arguments:
            parts.append(f"| `{param.metavar or param.name.upper()}` | {_cell(param.help or '')} |")
        for param in options:
            names = ", ".join(f"`{each}`" for each in (*param.opts, *param.secondary_opts))
            said = _cell(param.help or "Show the help of the command.")
            if param.default not in (None, False) and getattr(param, "show_default", True):
                shown = getattr(param.default, "value", param.default)
                said += f" Default: `{shown}`." if not callable(shown) else ""
            parts.append(f"| {names} | {said} |")
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
