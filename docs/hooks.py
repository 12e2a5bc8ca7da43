"""Pages that are made when the site is built: the command line's reference, from its own help."""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from nearfold.cli.app import app
from nearfold.methods.registry import METHODS

PAGE = "reference/commands.md"
# Where the page of estimators has them.
ESTIMATORS = "ESTIMATORS"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=commands()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put every registered estimator on their page."""
    return markdown.replace(f"\n{ESTIMATORS}\n", f"\n{estimators()}\n")


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
