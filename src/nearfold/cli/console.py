"""What commands print: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nearfold.progress import reporting
from nearfold.version import __version__

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from nearfold.evaluation.intervals import Estimate

__all__ = ["interval", "output", "print_json", "print_mapping", "short", "showing_progress"]


def output() -> Console:
    """Return the console for results; tables keep their width where nobody set one."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def print_json(results: Mapping[str, Any]) -> None:
    """Print results and the version as one JSON document; what JSON lacks (inf, nan) becomes null."""
    print(json.dumps(_finite({"version": __version__, **results}), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_mapping(rows: Mapping[str, Any]) -> None:
    """Print names and values in two columns."""
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    output().print(table)


def interval(value: Estimate) -> str:
    """Return a mean with its 95% interval as text: `.745 [.734 .756]`."""
    return f"{short(value.mean)} [dim][{short(value.low)} {short(value.high)}][/dim]"


def short(value: float) -> str:
    """Return a share with three decimals and no leading zero: `.745`."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


class _Bars:
    """A reporter that draws a bar with rate and time left for each stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, label: str, total: int, unit: str) -> tuple[Callable[[int], None], Callable[[], None]]:
        task = self._progress.add_task(label, total=total, unit=unit)
        return (
            lambda steps: self._progress.advance(task, steps),
            lambda: self._progress.remove_task(task),
        )


@contextmanager
def showing_progress(quiet: bool) -> Iterator[None]:
    """Show the progress of what runs inside, if standard error is a terminal and not `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        reporting(_Bars(progress)),
    ):
        yield
