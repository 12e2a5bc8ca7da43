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
    "Dimensions",
    "EncoderFile",
    "Ids",
    "Ks",
    "Memory",
    "MetricName",
    "NQueries",
    "Params",
    "Qrels",
    "Queries",
    "QueryColumn",
    "QueryIds",
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
EncoderFile = Annotated[
    Path, typer.Argument(help="An encoder that `fit` saved.", metavar="ENCODER"), Mark.reads
]
Dimensions = Annotated[
    str,
    typer.Option(
        "--dimensions", "-d", help="Number of dimensions to fold to, or a share of them such as 25%."
    ),
]
Queries = Annotated[
    str | None,
    typer.Option(
        help="File with queries; unless given, rows of BASE are held out. Of an HDF5 file with train and "
        "test the latter are taken."
    ),
    Mark.reads,
]
NQueries = Annotated[
    int | None,
    typer.Option(help="Number of rows to hold out as queries; a tenth, at most 1,000, unless given."),
]
Ks = Annotated[str, typer.Option("-k", help="The k of recall@k, comma-separated.")]
Candidates = Annotated[str, typer.Option(help="The R of k-recall@R, numbers of candidates, comma-separated.")]
QueryColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of --queries; that of BASE unless given, but test in HDF5 files with train and test.",
        show_default=False,
    ),
]
Qrels = Annotated[
    str | None,
    typer.Option(
        help="Relevance labels of --queries: TREC lines, BEIR's tsv or jsonl, or Parquet (extra labels).",
    ),
    Mark.reads,
]
Ids = Annotated[
    str | None,
    typer.Option(help="Column of BASE with the ids that --qrels names; row numbers unless given."),
]
QueryIds = Annotated[
    str | None,
    typer.Option(help="Column of --queries with the ids that --qrels names; row numbers unless given."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Memory that the work may take, such as 800MB or 4GB; half of the machine's, or of its "
        "container's, unless given. Files may be of any size."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of the scheduler of a Dask cluster that does the work, such as tcp://host:8786."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random.", min=0)]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", metavar="NAME=VALUE", help="Parameter of the method; may be given several times."
    ),
]
SampleRows = Annotated[
    int | None,
    typer.Option(
        "--rows",
        help="Number of rows to use, drawn at random, for a quick look; all rows unless given.",
        min=3,
    ),
]
Report = Annotated[
    Path | None, typer.Option(help="File to write a page with tables and charts to (.html)."), Mark.writes
]
Seeds = Annotated[
    int,
    typer.Option(
        "--seeds",
        help="Number of seeds that methods with chance in them are fitted with, and averaged over.",
        min=1,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")]


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
