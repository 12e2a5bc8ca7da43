"""The `nearfold` command: its subcommands, and what happens when one fails.

Nothing heavier than typer is imported until a command runs, so that help is instant.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from nearfold.cli import (
    apply,
    compare,
    demo,
    drift,
    evaluate,
    export,
    fit,
    index,
    inspect,
    methods,
    migrate,
    plan,
    search,
    sweep,
    truncate,
    update,
    verify,
)
from nearfold.cli.console import one_line
from nearfold.cli.logged import log_to
from nearfold.cli.paths import Mark, guarded
from nearfold.errors import NearfoldError, NearfoldWarning
from nearfold.errors.credentials import redacted, remember, remember_environment
from nearfold.errors.printable import printable
from nearfold.version import __version__

__all__ = ["app", "main"]

_INTERRUPTED = 130

app = typer.Typer(
    name="nearfold",
    help="Fold embedding vectors to fewer dimensions while keeping each vector's nearest neighbours.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# By name, in the order of the help. Each is guarded: what it reads is safe from what it writes.
_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "fit": fit.fit,
    "apply": apply.apply,
    "drift": drift.drift,
    "eval": evaluate.evaluate,
    "compare": compare.compare,
    "sweep": sweep.sweep,
    "plan": plan.plan,
    "index": index.index,
    "search": search.search,
    "inspect": inspect.inspect,
    "export": export.export,
    "migrate": migrate.migrate,
    "truncate": truncate.truncate,
    "update": update.update,
    "verify": verify.verify,
    "methods": methods.methods,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(guarded(_command))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nearfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Append what happens to a file, a JSON object a line."),
        Mark.writes,
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print where time went, on standard error.")
    ] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fold embedding vectors to fewer dimensions while keeping each vector's nearest neighbours."""
    if log is not None:
        context.with_resource(log_to(log))
    if profile:
        from nearfold.cli.profile import profiling

        context.with_resource(profiling())


def _fail(message: object, status: int = 2) -> NoReturn:
    print(f"nearfold: {one_line(message)}", file=sys.stderr)
    raise SystemExit(status)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that nobody foresaw, without passwords and control characters."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(printable(redacted(text), keep="\n"), end="", file=sys.stderr)


def main() -> NoReturn:
    """Run the command line: bad input prints one line on standard error and exits with 2."""
    sys.excepthook = _show_bug
    remember_environment()
    for argument in sys.argv[1:]:
        # --option=URL too.
        remember(argument.partition("=")[2] if argument.startswith("--") else argument)
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that lacks a letter of a name gets its number.
        sys.stdout.reconfigure(errors="backslashreplace")

    def show(message: Warning | str, *_args: object, **_kwargs: object) -> None:
        print(f"nearfold: warning: {one_line(message)}", file=sys.stderr)

    warnings.simplefilter("always", NearfoldWarning)
    warnings.showwarning = show
    try:
        status = app(standalone_mode=False)
        # Flush here, so that a full disk behind standard output is an error like any other.
        sys.stdout.flush()
    except NearfoldError as error:
        _fail(error)
    except typer.TyperException as error:
        _fail(f"{error.format_message()}; see nearfold --help")
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left, as `head` does: no error, and nothing to tell it.
        sys.stderr.close()
        raise SystemExit(141) from None
    except MemoryError:
        _fail("out of memory; give fewer rows or a machine with more")
    except OSError as error:
        _fail(error.strerror or error)
    # typer turns an interrupt inside a command into this status.
    if status == _INTERRUPTED:
        _fail("interrupted; nothing half-written is left", _INTERRUPTED)
    raise SystemExit(status if isinstance(status, int) else 0)
