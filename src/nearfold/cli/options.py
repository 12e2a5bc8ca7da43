"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from nearfold._utils.config import bytes_of, config_context
from nearfold.cli.paths import Mark
from nearfold.errors import ParameterError

__all__ = [
    "DEFAULT_MEMORY",
    "AsJson",
    "BaseFile",
    "Candidates",
    "Column",
    "Ks",
    "Memory",
    "MetricName",
    "NQueries",
    "Params",
    "Queries",
    "QueryColumn",
    "Quiet",
    "Report",
    "SampleRows",
    "Scheduler",
    "Seed",
    "Seeds",
    "configured",
    "parse_floats",
    "parse_numbers",
    "parse_parameters",
]


class MetricName(StrEnum):
    """What near means."""

    cosine = "cosine"
    l2 = "l2"
    ip = "ip"


BaseFile = Annotated[
    str,
    typer.Argument(
        help="Vectors: a file (.npy, .parquet, .fvecs, .hdf5, ...), a folder of such files, or a URL.",
        metavar="BASE",
    ),
    Mark.reads,
]
Column = Annotated[
    str | None, typer.Option(help="The column (or .npz array, or HDF5 dataset) that holds the vectors.")
]
Queries = Annotated[
    str | None,
    typer.Option(
        help="Vectors to ask with; without it rows of BASE are held out. Of an HDF5 file with train and test "
        "the latter are taken."
    ),
    Mark.reads,
]
NQueries = Annotated[int | None, typer.Option(help="Rows to hold out: a tenth, at most 1,000, unless given.")]
Ks = Annotated[str, typer.Option("-k", help="The k of recall@k, comma-separated.")]
Candidates = Annotated[str, typer.Option(help="The R of k-recall@R, numbers of candidates, comma-separated.")]
QueryColumn = Annotated[
    str | None,
    typer.Option(
        help="The same for --queries; that of BASE unless given, but test in HDF5 files with train and test.",
        show_default=False,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="What the work may take, such as 800MB or 4GB: half of the machine's memory, or of its "
        "container's, unless given. Files may be of any size."
    ),
]
Scheduler = Annotated[
    str | None, typer.Option(help="Work on the Dask cluster whose scheduler is there (tcp://host:8786).")
]
Seed = Annotated[int, typer.Option(help="Of the split and of the methods.", min=0)]
Params = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter of the method; repeatable."),
]
SampleRows = Annotated[
    int | None, typer.Option("--rows", help="Use a sample of ROWS rows only, for a quick look.", min=3)
]
Report = Annotated[
    Path | None, typer.Option(help="Write a page with tables and charts, in one file (.html)."), Mark.writes
]
Seeds = Annotated[
    int, typer.Option("--seeds", help="Fit methods with chance in them this often and average.", min=1)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable results alone.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


DEFAULT_MEMORY: str | None = None
"""Half of the memory there is: see `nearfold.memory`."""


def configured(memory: str | None, scheduler: str | None = None) -> AbstractContextManager[None]:
    """Return the context in which the library keeps to --memory and works on --scheduler."""
    budget = None if memory is None else bytes_of(memory, "--memory")
    return config_context(memory=budget, scheduler=scheduler)


def parse_numbers(name: str, text: str) -> list[int]:
    """Return the whole numbers of a comma-separated list."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(
            f"{name} {text!r} must be whole numbers with commas between, such as 1,5,10"
        ) from None


def parse_floats(name: str, text: str) -> list[float]:
    """Return the numbers of a comma-separated list."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(
            f"{name} {text!r} must be numbers with commas between, such as 1e-6,1e-5"
        ) from None


def parse_parameters(settings: list[str] | None) -> dict[str, Any]:
    """Return NAME=VALUE settings as a mapping; values are read as JSON, or else as text."""
    parameters = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ParameterError(f"--param {setting!r} must be NAME=VALUE, such as weight_decay=1e-5")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return parameters
