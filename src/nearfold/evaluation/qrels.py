"""Relevance labels by row: which documents answer which queries, and how well."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64, chunk_rows
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.io.base import Source
from nearfold.io.qrels import Qrel, checked_qrels, read_qrels
from nearfold.io.vectors import as_source

__all__ = ["Labels", "Qrels", "ids_of_column", "labels_of"]


class Qrels:
    """Relevance labels: which documents answer which queries, and how well.

    Pass them as `qrels` to `evaluate`, `compare`, `sweep` and `plan`, which then also report whether a search
    still finds what people look for. A path or a mapping does where ids are row numbers.

    Parameters
    ----------
    labels : mapping, str or path-like
        The grades as a mapping {query id: {document id: grade}}, or a file of them. Files hold TREC lines
        (`query 0 document grade`), BEIR's tsv or jsonl (with the names `query-id`, `corpus-id` and `score`),
        or are Parquet with such columns; the content tells which. Columns may also be named `query`, `qid`,
        `topic` or `topic-id`; `document-id`, `doc-id`, `docid`, `docno`, `document`, `doc`, `did` or `pid`;
        and `grade`, `relevance`, `rel` or `label`, in any case, with `-` or `_`. Grades are whole numbers
        from -1,000 to 1,000. From 1 on a document is relevant.
    document_ids : str or array-like of shape (n,), optional
        The ids of the base's rows, or the name of the column that holds them in the file of the base. By
        default ids are row numbers from 0.
    query_ids : str or array-like of shape (n_queries,), optional
        The ids of the queries, likewise.

    Attributes
    ----------
    labels : dict of str to dict of str to int
        The grades by ids as text.
    document_ids, query_ids : str, array-like or None
        As given.

    Raises
    ------
    DataError
        A mapping has no labels, or an id or a grade in it is of a wrong type.
    FileError
        The file can't be read, or a line of it is not a label; the message names the line.

    Examples
    --------
    >>> import nearfold as nf
    >>> qrels = nf.Qrels({"q1": {"d7": 2, "d9": 1}}, document_ids=["d7", "d8", "d9"], query_ids=["q1"])
    >>> qrels.labels
    {'q1': {'d7': 2, 'd9': 1}}
    """

    def __init__(
        self,
        labels: Mapping[Any, Mapping[Any, int]] | str | os.PathLike[str],
        *,
        document_ids: Any = None,
        query_ids: Any = None,
    ) -> None:
        self.labels: Qrel = checked_qrels(labels) if isinstance(labels, Mapping) else read_qrels(labels)
        self.document_ids, self.query_ids = document_ids, query_ids

    def __repr__(self) -> str:
        count = sum(map(len, self.labels.values()))
        return f"Qrels({count:,} labels of {len(self.labels):,} queries)"


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of the queries that have a relevant document, by row number.

    Parameters
    ----------
    query_rows : ndarray of shape (n_judged,), int64
        The row numbers of these queries, rising.
    documents, grades : tuple of ndarray, each of shape (n_labels,), int64
        The row numbers of each query's labelled documents, and their grades; grades below 1 are 0.
    """

    query_rows: Int64
    documents: tuple[Int64, ...]
    grades: tuple[Int64, ...]

    def relevant(self) -> Int64:
        """Return the row numbers of the documents that are relevant to any query, rising."""
        pairs = zip(self.documents, self.grades, strict=True)
        return np.unique(np.concatenate([rows[grades > 0] for rows, grades in pairs]))

    def among(self, rows: Int64) -> Labels:
        """Return the labels of a base that has only some of the rows.

        Parameters
        ----------
        rows : ndarray of shape (n,), int64
            The row numbers of the base, rising. All relevant documents must be among them.

        Returns
        -------
        Labels
            The labels with the numbers of the rows among those.
        """
        documents, grades = [], []
        for own, given in zip(self.documents, self.grades, strict=True):
            places = np.searchsorted(rows, own)
            there = rows[np.minimum(places, len(rows) - 1)] == own
            documents.append(places[there])
            grades.append(given[there])
        return Labels(self.query_rows, tuple(documents), tuple(grades))


def labels_of(qrels: Any, X: Any, queries: Any, n_documents: int, n_queries: int) -> Labels:
    """Return labels by row number.

    Parameters
    ----------
    qrels : Qrels, mapping, str, path-like or Labels
        The labels; without ids of their own, ids are row numbers. Labels by row number are returned.
    X, queries : array-like, data frame, path, URL or Source
        The base and the queries, as the caller gave them: ids may be a column of theirs. The queries are None
        if none were given.
    n_documents, n_queries : int
        The numbers of rows of the base and the queries that are searched.

    Returns
    -------
    Labels

    Raises
    ------
    ParameterError
        No queries were given, or the base is a sample of its file.
    DataError
        A labelled query or document is not among the rows, an id is there twice, there are more or fewer ids
        than rows, or no query has a relevant document.
    FileError
        A file can't be read or has no such column of ids.
    """
    if isinstance(qrels, Labels):
        return qrels
    if queries is None:
        raise ParameterError("qrels label queries: give those queries, as rows of the base have no labels")
    given = qrels if isinstance(qrels, Qrels) else Qrels(qrels)
    for what, vectors, held in (("document", X, n_documents), ("query", queries, n_queries)):
        if not isinstance(vectors, str | os.PathLike | Source):
            continue
        if (total := as_source(vectors).layout.rows) != held:
            raise ParameterError(
                f"qrels need every {what}, and the memory budget holds {held:,} of {total:,}; raise it"
            )
    known_queries = _rows_of(given.labels, given.query_ids, queries, n_queries, "query")
    wanted = {document for documents in given.labels.values() for document in documents}
    known = _rows_of(wanted, given.document_ids, X, n_documents, "document")
    found: dict[int, tuple[Int64, Int64]] = {}
    for query, documents in given.labels.items():
        rows = np.array([known[document] for document in documents], np.int64)
        grades = np.maximum(np.array(list(documents.values()), np.int64), 0)
        if grades.any():
            found[known_queries[query]] = rows, grades
    if not found:
        raise DataError("qrels have no relevant document: all grades are below 1")
    order = sorted(found)
    return Labels(
        np.array(order, np.int64),
        tuple(found[row][0] for row in order),
        tuple(found[row][1] for row in order),
    )


def _rows_of(wanted: Collection[str], ids: Any, vectors: Any, rows: int, what: str) -> dict[str, int]:
    """Return the row number of each wanted id."""
    plural = {"query": "queries", "document": "documents"}[what]
    if ids is None:
        found = {each: int(each) for each in wanted if _is_number(each) and int(each) < rows}
        told = f"ids are row numbers from 0 to {rows - 1:,} unless {what}_ids are given"
    else:
        own = ids_of_column(as_source(vectors), ids) if isinstance(ids, str) else _texts(ids)
        if len(own) != rows:
            raise DataError(f"{what}_ids has {len(own):,} ids for {rows:,} {plural}; give one for each row")
        found = {}
        for row, each in enumerate(own):
            if each in wanted and found.setdefault(each, row) != row:
                raise DataError(
                    f"{what}_ids has {each!r} twice, at rows {found[each]} and {row}, so that its labels may "
                    f"mean either; make ids differ"
                )
        told = f"the {plural} have ids such as {', '.join(map(repr, own[:3]))}"
    missing = [each for each in wanted if each not in found]
    if missing:
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise DataError(
            f"qrels label {what} {missing[0]!r}{more}, which is not among the {plural}: {told}; remove the "
            f"label or add the {what}"
        )
    return found


def _is_number(text: str) -> bool:
    """Return whether a text is a row number as it is written without leading zeros."""
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0") and len(text) < 19


def ids_of_column(source: Source, column: str) -> list[str]:
    """Return the ids in a column beside the vectors.

    Parameters
    ----------
    source : Source
        The vectors.
    column : str
        The name of the column.

    Returns
    -------
    list of str
        The ids as text, one for each row.

    Raises
    ------
    FileError
        There is no such column.
    """
    names = [] if source.layout.others is None else source.layout.others.names
    if column not in names:
        raise FileError(
            f"{source.path}: has no column {column!r} of ids beside the vectors; it has "
            f"{', '.join(names) or 'none'}"
        )

    def values() -> Iterator[Any]:
        for chunk in source.chunks(chunk_rows(source.layout.n_features)):
            yield from chunk.others.column(column).to_pylist()

    return _texts(values())


def _texts(ids: Iterable[Any] | npt.NDArray[Any]) -> list[str]:
    """Return ids of any type as text."""
    plain = ids.tolist() if hasattr(ids, "tolist") else [getattr(i, "as_py", lambda i=i: i)() for i in ids]
    return [str(each) for each in plain]
