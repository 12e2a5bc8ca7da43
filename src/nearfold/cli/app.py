"""The `nearfold` command: its subcommands, and what happens when one fails.

Nothing heavier than typer is imported until a command runs, so that help is instant.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    update,
    verify,
)
from nearfold.errors import NearfoldError, NearfoldWarning
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
app.command("demo")(demo.demo)
app.command("fit")(fit.fit)
app.command("apply")(apply.apply)
app.command("drift")(drift.drift)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("sweep")(sweep.sweep)
app.command("plan")(plan.plan)
app.command("index")(index.index)
app.command("search")(search.search)
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.command("migrate")(migrate.migrate)
app.command("update")(update.update)
app.command("verify")(verify.verify)
app.command("methods")(methods.methods)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nearfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    log: Annotated[
        Path | None, typer.Option("--log", help="Append what happens to a file, a JSON object a line.")
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
        context.with_resource(_logged(log))
    if profile:
        from nearfold.cli.profile import profiling

        context.with_resource(profiling())


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Log a command: what was asked for and by which versions, what it did, how it ended."""
    from nearfold.logs import event, logging_to
    from nearfold.report.provenance import versions

    with logging_to(path):
        event("command", arguments=sys.argv[1:], **versions())
        began = time.perf_counter()
        try:
            yield
        except BaseException as error:
            event("end", error=_one_line(error) or type(error).__name__, seconds=_since(began))
            raise
        event("end", error=None, seconds=_since(began))


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _fail(message: object, status: int = 2) -> NoReturn:
    print(f"nearfold: {_one_line(message)}", file=sys.stderr)
    raise SystemExit(status)


def main() -> NoReturn:
    """Run the command line: bad input prints one line on standard error and exits with 2."""

    def show(message: Warning | str, *_args: object, **_kwargs: object) -> None:
        print(f"nearfold: warning: {_one_line(message)}", file=sys.stderr)

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
