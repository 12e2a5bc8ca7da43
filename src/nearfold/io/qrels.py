"""Relevance labels ("qrels") from files: TREC lines, BEIR's tsv and jsonl, and Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow.parquet as pq

from nearfold.errors import DataError, FileError
from nearfold.io.lists import reading
from nearfold.io.location import Location

__all__ = ["LARGEST_GRADE", "Qrel", "checked_qrels", "read_qrels"]

Qrel = dict[str, dict[str, int]]
"""The grades of documents' ids by query's id."""

LARGEST_GRADE = 1000
"""The largest grade, and negated the smallest one."""

# The names of columns, by what they hold, without regard to case and to - or _.
_NAMES = {
    "query": ("query-id", "query", "qid", "topic", "topic-id"),
    "document": ("corpus-id", "document-id", "doc-id", "docid", "docno", "document", "doc", "did", "pid"),
    "grade": ("score", "grade", "relevance", "rel", "label"),
}

_TREC = "query 0 document grade"
_PARQUET = b"PAR1"

# What a line holds: where it stands, the ids of a query and a document, and the grade.
_Line = tuple[str, Any, Any, Any]


def read_qrels(path: str | os.PathLike[str]) -> Qrel:
    """Read relevance labels from a file.

    The format is told by the content. Text is UTF-8, and empty lines are skipped:

    - TREC: four fields with white space between, `query 0 document grade`; the second is ignored.
    - BEIR's tsv: a first line that names the columns, such as `query-id`, `corpus-id` and `score`, then a
      label a line, with tabs between.
    - jsonl: an object a line with fields of such names.
    - Parquet, with columns of such names.

    Columns and fields are known by their names, whatever their case, with `-` or `_`: `query-id`, `query`,
    `qid`, `topic` or `topic-id`; `corpus-id`, `document-id`, `doc-id`, `docid`, `docno`, `document`, `doc`,
    `did` or `pid`; and `score`, `grade`, `relevance`, `rel` or `label`. Others are ignored.

    Parameters
    ----------
    path : str or path-like
        The file, or a URL.

    Returns
    -------
    dict of str to dict of str to int
        The grades by the ids of queries, then of documents. Ids that are numbers in the file are text here.

    Raises
    ------
    FileError
        The file can't be read or holds no labels; or a line is not a label, has a grade that is not a whole
        number from -1,000 to 1,000, or contradicts another line. The message names the file and the line.
    """
    location = Location.of(path)
    name = location.name
    with reading(name, "can't be read as labels"), location.open() as file:
        if file.read(len(_PARQUET)) == _PARQUET:
            file.seek(0)
            return _collected(name, _of_table(name, pq.ParquetFile(file)), FileError)
        file.seek(0)
        content = file.read()
    return _collected(name, _of_text(name, content), FileError)


def checked_qrels(labels: Mapping[Any, Mapping[Any, Any]], name: str = "qrels") -> Qrel:
    """Return a mapping's labels with ids as text.

    Parameters
    ----------
    labels : mapping of id to mapping of id to int
        The grades by the ids of queries, then of documents; ids are text or whole numbers.
    name : str, default="qrels"
        The name of the mapping in messages.

    Returns
    -------
    dict of str to dict of str to int

    Raises
    ------
    DataError
        There are no labels, or an id or a grade is of a wrong type; the message names it.
    """

    def lines() -> Iterator[_Line]:
        for query, documents in labels.items():
            if not isinstance(documents, Mapping):
                raise DataError(f"{name}: query {query!r} has {documents!r}; give a mapping of id to grade")
            for document, grade in documents.items():
                yield f"query {query!r}", query, document, grade

    return _collected(name, lines(), DataError)


def _collected(name: str, lines: Iterable[_Line], kind: type[FileError | DataError]) -> Qrel:
    """Return what lines hold, or raise an error of a kind that says where they stand."""
    found: Qrel = {}
    for where, query, document, given in lines:
        try:
            ids, grade = (_id(query), _id(document)), _grade(given)
        except ValueError as error:
            raise kind(f"{name}, {where}: {error}") from None
        if found.setdefault(ids[0], {}).setdefault(ids[1], grade) != grade:
            raise kind(
                f"{name}, {where}: document {ids[1]!r} has grade {grade} for query {ids[0]!r}, and "
                f"{found[ids[0]][ids[1]]} before; keep one of them"
            )
    if not found:
        raise kind(f"{name}: holds no labels; give lines of the form '{_TREC}', BEIR's tsv, jsonl or Parquet")
    return found


def _id(value: Any) -> str:
    """Return an id as text."""
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{value!r} is no id; ids are text or whole numbers")
    return str(value)


def _grade(value: Any) -> int:
    """Return a grade as a number."""
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) <= LARGEST_GRADE or number != int(number):
        raise ValueError(
            f"grade {value!r} must be a whole number from -{LARGEST_GRADE:,} to {LARGEST_GRADE:,}"
        )
    return int(number)


def _of_text(name: str, content: bytes) -> Iterator[_Line]:
    """Yield the labels of a text, whose first line shows its format."""
    lines = _decoded(name, content)
    number, first = next(lines, (0, ""))
    if not number:
        return
    if first.lstrip().startswith("{"):
        yield from _of_objects(name, [(number, first)])
        yield from _of_objects(name, lines)
        return
    places = _places(first.split("\t"))
    if places is not None:
        yield from _of_fields(name, lines, places)
        return
    if len(first.split()) != 4:
        raise FileError(
            f"{name}, line 1: has {len(first.split())} fields; a TREC line has four ('{_TREC}'), and a tsv "
            f"begins with the names of its columns (query-id, corpus-id, score)"
        )
    yield from _of_trec(name, [(number, first)])
    yield from _of_trec(name, lines)


def _decoded(name: str, content: bytes) -> Iterator[tuple[int, str]]:
    """Yield lines that aren't empty with their numbers."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.rstrip(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"{name}, line {number}: is not UTF-8 ({error.reason})") from error
        if text.strip():
            yield number, text


def _places(names: Sequence[str]) -> list[int] | None:
    """Return where the query, the document and the grade stand among columns, or None if one is missing."""
    plain = [name.strip().lower().replace("_", "-") for name in names]
    found = [next((plain.index(name) for name in kinds if name in plain), -1) for kinds in _NAMES.values()]
    return None if -1 in found else found


def _of_trec(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[_Line]:
    for number, line in lines:
        fields = line.split()
        if len(fields) != 4:
            raise FileError(f"{name}, line {number}: has {len(fields)} fields where '{_TREC}' has four")
        yield f"line {number}", fields[0], fields[2], fields[3]


def _of_fields(name: str, lines: Iterable[tuple[int, str]], places: Sequence[int]) -> Iterator[_Line]:
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) <= max(places):
            raise FileError(
                f"{name}, line {number}: has {len(fields)} fields, and the first line names a column "
                f"{max(places) + 1}; write tabs between"
            )
        query, document, grade = (fields[place].strip() for place in places)
        yield f"line {number}", query, document, grade


def _of_objects(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[_Line]:
    for number, line in lines:
        try:
            values = msgspec.json.decode(line.encode(), type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise FileError(f"{name}, line {number}: is no JSON object ({error})") from error
        keys = list(values)
        places = _places(keys)
        if places is None:
            raise FileError(f"{name}, line {number}: {_missing(keys, 'fields')}")
        query, document, grade = (values[keys[place]] for place in places)
        yield f"line {number}", query, document, grade


def _of_table(name: str, file: pq.ParquetFile) -> Iterator[_Line]:
    names = file.schema_arrow.names
    places = _places(names)
    if places is None:
        raise FileError(f"{name}: {_missing(names, 'columns')}")
    wanted = [names[place] for place in places]
    first = 0
    for batch in file.iter_batches(columns=wanted):
        columns = [batch.column(column).to_pylist() for column in wanted]
        for row, (query, document, grade) in enumerate(zip(*columns, strict=True), first):
            yield f"row {row}", query, document, grade
        first += len(batch)


def _missing(names: Sequence[str], what: str) -> str:
    """Return what to say where columns are not named as expected."""
    return (
        f"its {what} are {', '.join(names) or 'none'}; name them query-id, corpus-id and score "
        f"(other names are in the documentation of nearfold.Qrels)"
    )
