"""The page: parts in order, in one HTML file that asks nothing of the network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape as escape_html
from importlib import resources
from typing import Any, NamedTuple

from nearfold._utils.files import replacing
from nearfold.errors.credentials import redacted
from nearfold.errors.printable import printable

__all__ = ["Beside", "Cell", "Chart", "Page", "Part", "Table", "Text"]

# Nothing may be fetched, whatever a chart or a name in the data says.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def escape(text: str) -> str:
    """Return text that may be anybody's for HTML: no tags, no passwords, nothing that turns or hides it."""
    return escape_html(printable(redacted(text), keep="\n"))


class Cell(NamedTuple):
    """What a table's cell shows, what it sorts by, and what stands small behind it."""

    text: str
    value: float | str | None = None
    small: str = ""

    def html(self) -> str:
        """Return the cell."""
        value = self.text if self.value is None else self.value
        if isinstance(value, float) and not math.isfinite(value):
            # What JavaScript calls them; no value sorts last.
            value = "" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        sort = escape(str(value))
        small = f" <small>{escape(self.small)}</small>" if self.small else ""
        return f'<td data-value="{sort}">{escape(self.text)}{small}</td>'


class Part:
    """Something on a page."""

    def html(self, name: str) -> str:
        """Return it; `name` is unique on the page."""
        raise NotImplementedError


@dataclass(frozen=True)
class Text(Part):
    """A paragraph of plain text; soft ones are notes."""

    text: str
    soft: bool = False

    def html(self, name: str) -> str:  # noqa: ARG002
        """Return the paragraph."""
        kind = ' class="soft"' if self.soft else ""
        return f"<p{kind}>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Table(Part):
    """A table that sorts by any column; the first names the rows."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    best: int | None = None
    caption: str = ""

    def html(self, name: str) -> str:  # noqa: ARG002
        """Return the table."""
        head = "".join(
            f'<th scope="col"><button type="button">{escape(h)}</button></th>' for h in self.headings
        )
        body = "".join(_row(row, best=number == self.best) for number, row in enumerate(self.rows))
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return (
            f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )


def _row(cells: Sequence[Cell], *, best: bool) -> str:
    kind = ' class="best"' if best else ""
    return f"<tr{kind}>{''.join(cell.html() for cell in cells)}</tr>"


@dataclass(frozen=True)
class Chart(Part):
    """A plotly figure as a mapping with data and layout, and what to see in it."""

    figure: dict[str, Any]
    caption: str
    height: int = 420

    def html(self, name: str) -> str:
        """Return the place of the chart and its data, which the page's script draws."""
        # Inside a script element only tags and comments could break out: none can be opened.
        data = json.dumps(self.figure, allow_nan=False).replace("<", "\\u003c")
        return (
            f'<figure><div class="chart" style="height:{self.height}px" data-figure="{name}"></div>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
            f'<script type="application/json" id="{name}">{data}</script>'
        )


@dataclass(frozen=True)
class Beside(Part):
    """Parts that stand side by side, or below each other where there is no room."""

    parts: Sequence[Part]

    def html(self, name: str) -> str:
        """Return the parts."""
        inner = "".join(f"<div>{part.html(f'{name}-{i}')}</div>" for i, part in enumerate(self.parts))
        return f'<div class="beside">{inner}</div>'


@dataclass
class Page:
    """A report, which is written as one HTML file.

    Parameters
    ----------
    title, subtitle : str
        What the report is about.
    method : str
        How the figures were measured, in sentences.
    provenance : dict of str to str
        Names and values that say where the figures come from: the data's fingerprint, versions, the machine.
    command : str
        The command that makes the report again.
    sections : list of (str, list of Part), default=[]
        The headings with their parts.
    """

    title: str
    subtitle: str
    method: str
    provenance: dict[str, str]
    command: str
    sections: list[tuple[str, list[Part]]] = field(default_factory=list)

    def add(self, heading: str, *parts: Part) -> None:
        """Append a section.

        Parameters
        ----------
        heading : str
            The heading of the section.
        *parts : Part
            The parts of the section, in order.
        """
        self.sections.append((heading, list(parts)))

    def render(self) -> str:
        """Return the page as HTML, plotly's script included."""
        from plotly.offline import get_plotlyjs

        assets = resources.files("nearfold.report") / "assets"
        css, js = ((assets / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
        body = "".join(
            f"<section><h2>{escape(heading)}</h2>"
            + "".join(part.html(f"part-{i}-{j}") for j, part in enumerate(parts))
            + "</section>"
            for i, (heading, parts) in enumerate(self.sections)
        )
        facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in self.provenance.items())
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            f"<title>{escape(self.title)}</title><style>{css}</style></head><body>"
            f'<header><div><h1>{escape(self.title)}</h1><p class="soft">{escape(self.subtitle)}</p></div>'
            '<button type="button" id="theme">Light / dark</button></header>'
            f"<main>{body}<section><h2>How it was measured</h2><p>{escape(self.method)}</p>"
            f"<dl>{facts}</dl><p>To make this page again:</p><pre>{escape(self.command)}</pre></section>"
            '<footer class="soft">Made by nearfold. This file is whole: it loads nothing.</footer></main>'
            f"<script>{get_plotlyjs()}</script><script>{js}</script></body></html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, which is replaced as a whole.

        Parameters
        ----------
        path : str or path-like
            The file.

        Raises
        ------
        FileError
            The file can't be written.
        """
        content = self.render().encode()
        with replacing(path) as file:
            file.write(content)
