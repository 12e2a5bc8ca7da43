"""Recall against queries per second and bytes, in ann-benchmarks' manner, for nearfold and its peers.

Reads the HDF5 files that https://github.com/erikbern/ann-benchmarks describes (train, test, neighbors;
attribute distance), or makes one of real vectors first. All engines answer the same queries in batches, on
the same threads, in one run; every setting is timed in turn, several times over, and the best time counts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# Idle threads of one library must not keep the cores from the next one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import h5py
import numpy as np
import numpy.typing as npt
from data import Float32, load
from engines import Engine, K, of_faiss, of_hnswlib, of_nearfold, of_svs, of_usearch
from rich.console import Console
from rich.table import Table

from nearfold._utils.arrays import normalize_rows
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.report.charts import lines
from nearfold.report.page import Cell, Chart, Page
from nearfold.report.page import Table as PageTable
from nearfold.report.provenance import command_line, provenance

console = Console(width=130, highlight=False)

Int64 = npt.NDArray[np.int64]

REPEATS = 5


class Point(NamedTuple):
    """An engine at one setting."""

    engine: Engine
    setting: int
    recall: float
    rate: float


def read_hdf5(path: Path) -> tuple[Float32, Float32, Int64]:
    """Return base, queries and the true neighbours of an angular set; vectors of norm 1."""
    with h5py.File(path) as file:
        if file.attrs["distance"] != "angular":
            raise SystemExit(f"{path}: distance is {file.attrs['distance']}; this benchmark compares angular")
        base, queries = (normalize_rows(np.asarray(file[name], np.float32)) for name in ("train", "test"))
        return base, queries, np.asarray(file["neighbors"], np.int64)[:, :K]


def write_hdf5(path: Path, base: Float32, queries: Float32) -> None:
    """Write a file as ann-benchmarks does."""
    truth = GroundTruth.compute(base, queries, 100, "cosine")
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "angular"
        file["train"], file["test"] = base, queries
        file["neighbors"] = truth.ids
        file["distances"] = 1 - truth.scores


def measured(engines: Sequence[Engine], queries: Float32, neighbors: Int64) -> list[Point]:
    """Return recall and rate of every engine at every setting."""
    best: dict[tuple[int, int], float] = {}
    recalls: dict[tuple[int, int], float] = {}
    for repeat in range(REPEATS + 1):
        for number, engine in enumerate(engines):
            for setting in engine.settings:
                at = number, setting
                began = time.perf_counter()
                found = engine.search(queries, setting)
                seconds = time.perf_counter() - began
                if repeat == 0:
                    # The first time warms caches; it is not counted.
                    ids = np.asarray(found).astype(np.int64)
                    hits = (ids[:, :, None] == neighbors[:, None]).any(axis=2)
                    recalls[at] = float(hits.mean())
                else:
                    best[at] = min(seconds, best.get(at, np.inf))
    return [
        Point(engines[number], setting, recalls[number, setting], len(queries) / seconds)
        for (number, setting), seconds in best.items()
    ]


def fastest(points: Sequence[Point], name: str, recall: float) -> Point | None:
    """Return an engine's fastest point of at least so much recall."""
    enough = [point for point in points if point.engine.name == name and point.recall >= recall]
    return max(enough, key=lambda point: point.rate, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--hdf5", type=Path, help="a file in ann-benchmarks' layout, angular")
    source.add_argument("--data", type=Path, help="the folder of real vectors; --set names one of them")
    parser.add_argument("--set", default="wordnet-minilm-384")
    parser.add_argument(
        "--codecs",
        default="NearFold33%,SQ8/hnsw/20/30;NearFold42%,SQ8/hnsw/16/20;NearFold50%,SQ8/hnsw/14/16/20",
    )
    parser.add_argument("--engines", default="faiss,hnswlib,usearch,svs,nearfold")
    parser.add_argument("--recall", type=float, default=0.95, help="at which engines are compared")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--report", type=Path, help="a page with the plot")
    parser.add_argument("--json", type=Path, help="all points")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = arguments.hdf5
        if path is None:
            path = folder / f"{arguments.set}-angular.hdf5"
            write_hdf5(path, *load(arguments.data, arguments.set))
        base, queries, neighbors = read_hdf5(path)
        threads = arguments.threads
        makers: dict[str, Callable[[], Iterator[Engine]]] = {
            "faiss": lambda: of_faiss(base, threads),
            "hnswlib": lambda: of_hnswlib(base, threads),
            "usearch": lambda: of_usearch(base, threads),
            "svs": lambda: of_svs(base, threads, folder),
            "nearfold": lambda: of_nearfold(base, threads, arguments.codecs.split(";"), folder),
        }
        engines = [engine for name in arguments.engines.split(",") for engine in makers[name]()]
        points = measured(engines, queries, neighbors)
    title = f"{path.stem}: {len(base):,} rows, {base.shape[1]} dimensions, {len(queries):,} queries"
    shown(points, engines, arguments.recall, f"{title}, {threads} threads")
    if arguments.json is not None:
        entries = [{**p._asdict(), "engine": p.engine.name, "bytes": p.engine.n_bytes} for p in points]
        arguments.json.write_text(json.dumps(entries, indent=1))
    if arguments.report is not None:
        write_page(points, title, arguments.recall, provenance(base, queries), arguments.report)


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both recall and rate."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.recall, -p.rate)):
        if not best or point.rate > best[-1].rate:
            best.append(point)
    return best[::-1]


def write_page(points: Sequence[Point], title: str, least: float, data: dict[str, str], path: Path) -> None:
    """Write the plot, and a table of each engine's front."""
    lowest = least - 0.1
    groups: dict[str, list[Point]] = {}
    rows: list[list[Cell]] = []
    for engine in {id(point.engine): point.engine for point in points}.values():
        own = [point for point in points if point.engine is engine]
        groups.setdefault(engine.group, []).extend(own)
        rows += [
            [
                Cell(engine.name),
                Cell(str(p.setting), p.setting),
                Cell(f"{p.recall:.4f}", p.recall),
                Cell(f"{p.rate:,.0f}", p.rate),
                Cell(f"{engine.n_bytes:,.0f}", engine.n_bytes),
                Cell(f"{engine.seconds:.1f}", engine.seconds),
            ]
            for p in front(own)
        ]
    series: dict[str, tuple[list[float], list[float]]] = {}
    for name, own in groups.items():
        seen = [point for point in front(own) if point.recall >= lowest]
        if seen:
            sizes = {round(p.engine.n_bytes) for p in seen}
            label = f"{name}, {min(sizes):,} bytes" if len(sizes) == 1 else f"{name}, to {max(sizes):,} bytes"
            series[label] = [p.recall for p in seen], [p.rate for p in seen]
    measure = (
        f"Recall is the share of the true {K} nearest among the {K} returned, with the file's own truth. All "
        f"queries are asked in one batch; the best of {REPEATS} times counts, taken in turn. Bytes are those "
        f"of the saved index for each vector; nearfold's full vectors stay in a file, mapped into memory."
    )
    page = Page(title, f"recall@{K} against queries a second", measure, data, command_line())
    chart = lines(series, f"recall@{K}", "queries a second")
    page.add(
        "Recall and speed",
        Chart(chart, "Up and right is better; each line is the best of its kind's settings and variants."),
    )
    headings = ["engine", "setting", "recall", "queries/s", "bytes a vector", "build, s"]
    page.add("All points that no other of the same engine beats", PageTable(headings, rows, None))
    page.write(path)


def shown(points: Sequence[Point], engines: Sequence[Engine], recall: float, title: str) -> None:
    graphs = ("faiss HNSW", "hnswlib", "usearch f32")
    found = [fastest(points, engine.name, recall) for engine in engines if engine.group in graphs]
    reference = max((point for point in found if point), key=lambda point: point.rate, default=None)
    if reference is None:
        raise SystemExit(f"no HNSW on full vectors reaches recall {recall} here")
    table = Table(title=f"{title}\nfastest setting of recall@{K} >= {recall}")
    for heading in (
        "engine",
        "bytes a vector",
        "build s",
        "setting",
        "recall",
        "queries/s",
        "x HNSW",
        "bytes/HNSW",
    ):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for engine in engines:
        point = fastest(points, engine.name, recall)
        row = [engine.name, f"{engine.n_bytes:,.0f}", f"{engine.seconds:.1f}"]
        if point is None:
            most = max((p for p in points if p.engine is engine), key=lambda p: p.recall)
            table.add_row(*row, "", f"at most {most.recall:.3f}", "", "", "")
        else:
            table.add_row(
                *row,
                str(point.setting),
                f"{point.recall:.3f}",
                f"{point.rate:,.0f}",
                f"{point.rate / reference.rate:.2f}",
                f"{engine.n_bytes / reference.engine.n_bytes:.2f}",
            )
    console.print(table)
    console.print(f"HNSW: the fastest on full vectors here, {reference.engine.name}.")


if __name__ == "__main__":
    main()
