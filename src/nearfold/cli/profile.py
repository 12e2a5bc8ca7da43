"""`--profile`: where a command's time went, by its stages, on standard error at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nearfold._utils.progress import reporting

__all__ = ["profiling"]


class _Stages:
    """A reporter that adds up the time of stages by label, less that of stages inside them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self.units: dict[str, str] = {}
        self._open: list[list[float]] = []

    def start(self, label: str, total: int, unit: str) -> tuple[Callable[[int], None], Callable[[], None]]:  # noqa: ARG002
        began = time.perf_counter()
        inside = [0.0]
        self._open.append(inside)
        self.units[label] = unit

        def advance(steps: int) -> None:
            self.steps[label] = self.steps.get(label, 0) + steps

        def finish() -> None:
            took = time.perf_counter() - began
            self._open = [each for each in self._open if each is not inside]
            if self._open:
                self._open[-1][0] += took
            self.seconds[label] = self.seconds.get(label, 0.0) + took - inside[0]

        return advance, finish


@contextmanager
def profiling() -> Iterator[None]:
    """Print the stages of everything inside, longest first, and the peak of memory."""
    stages = _Stages()
    began = time.perf_counter()
    try:
        with reporting(stages):
            yield
    finally:
        _show(stages, time.perf_counter() - began)


def _show(stages: _Stages, whole: float) -> None:
    from rich.table import Table

    from nearfold.cli.console import output

    table = Table(title="where time went", box=None, pad_edge=False, title_justify="left")
    for heading in ("stage", "seconds", "share", "steps", "a second"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    ranked = sorted(stages.seconds.items(), key=lambda entry: -entry[1])
    rest = whole - sum(stages.seconds.values())
    for label, seconds in [*ranked, ("everything else", rest)]:
        steps, unit = stages.steps.get(label), stages.units.get(label, "")
        rate = "" if not steps or seconds <= 0 else f"{steps / seconds:,.0f} {unit}"
        told = "" if steps is None else f"{steps:,}"
        table.add_row(label, f"{seconds:.2f}", f"{seconds / whole:.0%}", told, rate)
    table.add_row("all", f"{whole:.2f}", "", "", _peak(), style="bold")
    output(stderr=True).print(table)


def _peak() -> str:
    try:
        import resource
    except ImportError:
        return ""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"peak {used / 1e6:,.0f} MB"
