"""What commands print: progress on standard error, results on standard output.

All text goes to the terminal through here. Names, columns and metadata come from files that may be
anybody's: they are never read as markup, and what would steer a terminal is written out.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nearfold._utils.progress import reporting
from nearfold.errors.credentials import redacted
from nearfold.errors.printable import printable
from nearfold.version import __version__

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    from nearfold.evaluation.intervals import Estimate

__all__ = [
    "interval",
    "joined",
    "one_line",
    "output",
    "print_json",
    "print_mapping",
    "print_text",
    "short",
    "showing_progress",
]


def one_line(message: object) -> str:
    """Return a message as one line that a terminal can show: without passwords and control characters."""
    return printable(" ".join(redacted(str(message)).split()))


def output(*, stderr: bool = False) -> Console:
    """Return the console for results, or for standard error; tables keep their width where nobody set one."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        """A console on which text is text: no markup, no escapes but its own."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(redacted(text), keep="\n"), **options)

        def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
            for text, style, control in super().render(*arguments, **options):
                # Whatever drew it: Markdown makes texts of its own.
                yield Segment(text if control else printable(text, keep="\n"), style, control)

    stream = sys.stderr if stderr else sys.stdout
    return SafeConsole(
        stderr=stderr, width=None if stream.isatty() else 120, markup=False, emoji=False, highlight=False
    )


def print_text(text: str) -> None:
    """Print lines to be copied, such as a query in SQL, as they are; they may hold names from anywhere."""
    print(printable(redacted(text), keep="\n"), end="")


def print_json(results: Mapping[str, Any]) -> None:
    """Print results and the version as one JSON document; what JSON lacks (inf, nan) becomes null."""
    text = json.dumps(_plain({"version": __version__, **results}), indent=2, allow_nan=False)
    # The one control character that JSON leaves as it is.
    print(text.replace("\x7f", "\\u007f"))


def _plain(value: Any) -> Any:
    """Return what JSON can hold, without passwords."""
    if isinstance(value, Mapping):
        return {redacted(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return redacted(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_mapping(rows: Mapping[str, Any]) -> None:
    """Print names and values in two columns; a list has a line an entry, and so has nothing else."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        entries = value if isinstance(value, list) else [value]
        cell = value if isinstance(value, Text) else "\n".join(printable(str(entry)) for entry in entries)
        table.add_row(printable(name), cell)
    output().print(table)


def joined(*parts: str | Text | tuple[str, str]) -> Text:
    """Return texts behind each other, each plain, styled, or a text with the name of its style."""
    from rich.text import Text

    whole = Text()
    for part in parts:
        if isinstance(part, Text):
            whole.append_text(part)
        else:
            text, style = (part, "") if isinstance(part, str) else part
            whole.append(printable(redacted(text), keep="\n"), style)
    return whole


def interval(value: Estimate) -> Text:
    """Return a mean with its 95% interval as text: `.745 [.734 .756]`."""
    return joined(f"{short(value.mean)} ", (f"[{short(value.low)} {short(value.high)}]", "dim"))


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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=output(stderr=True), transient=True) as progress,
        reporting(_Bars(progress)),
    ):
        yield
