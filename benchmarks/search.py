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
from typing import Any, NamedTuple

# Idle threads of one library must not keep the cores from the next one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import faiss
import h5py
import hnswlib
import numpy as np
import numpy.typing as npt
import svs
from data import Float32, load
from rich.console import Console
from rich.table import Table
from usearch.index import Index as USearch

from nearfold.arrays import normalize_rows
from nearfold.evaluation.truth import Truth
from nearfold.pipeline.fitting import PipelineFitter
from nearfold.report.charts import lines
from nearfold.report.page import Cell, Chart, Page
from nearfold.report.page import Table as PageTable
from nearfold.report.provenance import command_line, provenance
from nearfold.search.index import SearchIndex

console = Console(width=130, highlight=False)

Int64 = npt.NDArray[np.int64]
Search = Callable[[Float32, int], Any]

K = 10
REPEATS = 5
EFFORTS = (10, 12, 14, 16, 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 57, 64, 80, 100, 128)
PROBES = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
CONSTRUCTION = 200
LINKS = 16


class Engine(NamedTuple):
    """One index, built: `search` takes queries and a setting, and returns ids (q, K)."""

    group: str
    name: str
    n_bytes: float
    seconds: float
    settings: Sequence[int]
    search: Search


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
    truth = Truth.compute(base, queries, 100, "cosine")
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "angular"
        file["train"], file["test"] = base, queries
        file["neighbors"] = truth.ids
        file["distances"] = 1 - truth.scores


def of_faiss(base: Float32, threads: int) -> Iterator[Engine]:
    faiss.omp_set_num_threads(threads)
    d = base.shape[1]
    lists = round(4 * len(base) ** 0.5)
    inner = faiss.METRIC_INNER_PRODUCT

    def built(
        group: str, name: str, factory: str, settings: Sequence[int], parameters: Callable[[int], Any]
    ) -> Engine:
        began = time.perf_counter()
        index = faiss.index_factory(d, factory, inner)
        graph = faiss.downcast_index(index)
        if hasattr(graph, "hnsw"):
            graph.hnsw.efConstruction = CONSTRUCTION
        index.train(base)
        index.add(base)
        seconds = time.perf_counter() - began
        size = faiss.serialize_index(index).size / len(base)
        return Engine(
            group, name, size, seconds, settings, lambda q, s: index.search(q, K, params=parameters(s))[1]
        )

    def follow(effort: int) -> Any:
        return faiss.SearchParametersHNSW(efSearch=effort)

    def refined(times: int) -> Callable[[int], Any]:
        def parameters(probes: int) -> Any:
            inside = faiss.SearchParametersIVF(nprobe=probes)
            return faiss.IndexRefineSearchParameters(k_factor=times, base_index_params=inside)

        return parameters

    yield built("faiss Flat", "faiss Flat", "Flat", (0,), lambda _: None)
    yield built("faiss HNSW", f"faiss HNSW{LINKS}", f"HNSW{LINKS},Flat", EFFORTS, follow)
    yield built("faiss HNSW", f"faiss HNSW{2 * LINKS}", f"HNSW{2 * LINKS},Flat", EFFORTS, follow)
    yield built("faiss HNSW,SQ8", f"faiss HNSW{LINKS},SQ8", f"HNSW{LINKS},SQ8", EFFORTS, follow)
    product = f"IVF{lists},PQ{d // 4}x4fs,RFlat"
    yield built("faiss IVF-PQ", f"faiss {product}", product, PROBES, refined(10))
    one_bit = f"IVF{lists},RaBitQ,Refine(SQ8)"
    yield built("faiss IVF-RaBitQ", f"faiss {one_bit}", one_bit, PROBES, refined(10))


def of_hnswlib(base: Float32, threads: int) -> Iterator[Engine]:
    for links in (LINKS, 2 * LINKS):
        began = time.perf_counter()
        index = hnswlib.Index("ip", base.shape[1])
        index.init_index(len(base), links, CONSTRUCTION)
        index.set_num_threads(threads)
        index.add_items(base)
        seconds = time.perf_counter() - began

        def search(queries: Float32, effort: int, index: Any = index) -> Any:
            index.set_ef(effort)
            return index.knn_query(queries, K)[0]

        size = index.index_file_size() / len(base)
        yield Engine("hnswlib", f"hnswlib M={links}", size, seconds, EFFORTS, search)


def of_usearch(base: Float32, threads: int) -> Iterator[Engine]:
    for kind in ("f32", "i8"):
        began = time.perf_counter()
        index = USearch(
            ndim=base.shape[1],
            metric="cos",
            dtype=kind,
            connectivity=LINKS,
            expansion_add=CONSTRUCTION,
        )
        index.add(np.arange(len(base)), base, threads=threads)
        seconds = time.perf_counter() - began

        def search(queries: Float32, effort: int, index: Any = index) -> Any:
            index.expansion_search = effort
            return index.search(queries, K, threads=threads).keys

        size = index.serialized_length / len(base)
        yield Engine(f"usearch {kind}", f"usearch {kind}", size, seconds, EFFORTS, search)


def of_svs(base: Float32, threads: int, scratch: Path) -> Iterator[Engine]:
    d = base.shape[1]
    saved = str(scratch / "base.fvecs")
    svs.write_vecs(base, saved)
    vectors = svs.VectorDataLoader(saved, svs.DataType.float32, dims=d)
    yield _vamana("svs Vamana", "svs Vamana", vectors, threads, scratch)
    dims = (d // 4, d // 3, d // 2)
    if "GenuineIntel" in Path("/proc/cpuinfo").read_text():
        kinds = svs.LeanVecKind
        for width in dims:
            for name, first in (("4x8", kinds.lvq4), ("8x8", kinds.lvq8)):
                lean = svs.LeanVecLoader(vectors, width, primary_kind=first, secondary_kind=kinds.lvq8)
                yield _vamana("svs LeanVec", f"svs LeanVec{name}, {width} dims", lean, threads, scratch)
        return
    # svs refuses LeanVec on processors of other makers and ends the process. What it is made of goes
    # everywhere: projection on principal axes (its own default), svs's graph over 8-bit integers, and
    # re-ranking; full vectors do that here, where LeanVec has 8 bits a dimension.
    console.print("Not an Intel processor: LeanVec is put together from its parts.")
    axes = np.linalg.eigh(base.T @ base)[1]
    for width in dims:
        A = np.ascontiguousarray(axes[:, -width:].T)
        images = base @ A.T
        scale = 127 / np.abs(images).max()
        coded = svs.Vamana.build(
            _GRAPH, np.rint(images * scale).astype(np.int8), svs.DistanceType.MIP, num_threads=threads
        )
        for depth in (16, 20, 30, 50):

            def search(
                queries: Float32, effort: int, A: Float32 = A, index: Any = coded, depth: int = depth
            ) -> Any:
                asked = queries @ A.T
                asked *= 127 / np.abs(asked).max()
                index.search_window_size = max(effort, depth)
                found = index.search(np.rint(asked).astype(np.int8), depth)[0].astype(np.int64)
                scores = np.empty(found.shape, np.float32)
                faiss.fvec_inner_products_by_idx(
                    *(faiss.swig_ptr(array) for array in (scores, queries, base, found)), d, *found.shape
                )
                order = np.argpartition(-scores, K - 1, axis=1)[:, :K]
                return np.take_along_axis(found, order, 1)

            size = width + 4 * (2 * LINKS + 1)
            yield Engine(
                "LeanVec's parts",
                f"LeanVec's parts, {width} dims, {depth} re-ranked",
                size,
                0.0,
                EFFORTS,
                search,
            )


_GRAPH = svs.VamanaBuildParameters(alpha=0.95, graph_max_degree=2 * LINKS, window_size=CONSTRUCTION)


def _vamana(group: str, name: str, loader: Any, threads: int, scratch: Path) -> Engine:
    began = time.perf_counter()
    index = svs.Vamana.build(_GRAPH, loader, svs.DistanceType.MIP, num_threads=threads)
    seconds = time.perf_counter() - began
    folder = scratch / name
    folder.mkdir()
    index.save(*(str(folder / part) for part in ("config", "graph", "data")))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / index.size

    def search(queries: Float32, effort: int) -> Any:
        index.search_window_size = effort
        return index.search(queries, K)[0]

    return Engine(group, name, size, seconds, EFFORTS, search)


def of_nearfold(base: Float32, threads: int, specs: Sequence[str], scratch: Path) -> Iterator[Engine]:
    faiss.omp_set_num_threads(threads)
    # As a user keeps them: full vectors stay in a file.
    saved = scratch / "base.npy"
    np.save(saved, base)
    fitter = PipelineFitter(base)
    for spec in specs:
        name, kind, *depths = spec.split("/")
        began = time.perf_counter()
        pipeline = fitter.fit(name)
        index = SearchIndex.build(pipeline, saved, kind=kind, links=LINKS)
        seconds = time.perf_counter() - began
        folder = scratch / f"{name}-{kind}"
        index.save(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / len(base)
        efforts = {"flat": (1,), "hnsw": EFFORTS, "ivf": PROBES}[kind]
        for depth in map(int, depths):

            def search(queries: Float32, effort: int, index: SearchIndex = index, depth: int = depth) -> Any:
                return index.search(queries, K, depth=depth, effort=effort).ids

            yield Engine("nearfold", f"{name} {kind}, {depth} re-ranked", size, seconds, efforts, search)


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
        "--pipelines",
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
            "nearfold": lambda: of_nearfold(base, threads, arguments.pipelines.split(";"), folder),
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
