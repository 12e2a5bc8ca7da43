"""The engines that search.py compares, each built on the same vectors of norm 1."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import hnswlib
import numpy as np
import svs
from usearch.index import Index as USearch

from nearfold._utils.arrays import Float32
from nearfold.codecs.fitting import CodecFitter
from nearfold.search.index import SearchIndex

__all__ = ["Engine", "K", "of_faiss", "of_hnswlib", "of_nearfold", "of_svs", "of_usearch"]

Search = Callable[[Float32, int], Any]

K = 10
EF_SEARCH = (10, 12, 14, 16, 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 57, 64, 80, 100, 128)
NPROBE = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
EF_CONSTRUCTION = 200
M = 16


class Engine(NamedTuple):
    """One index, built: `search` takes queries and a setting, and returns ids (q, K)."""

    group: str
    name: str
    n_bytes: float
    seconds: float
    settings: Sequence[int]
    search: Search


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
            graph.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(base)
        index.add(base)
        seconds = time.perf_counter() - began
        size = faiss.serialize_index(index).size / len(base)
        return Engine(
            group, name, size, seconds, settings, lambda q, s: index.search(q, K, params=parameters(s))[1]
        )

    def follow(setting: int) -> Any:
        return faiss.SearchParametersHNSW(efSearch=setting)

    def refined(times: int) -> Callable[[int], Any]:
        def parameters(probes: int) -> Any:
            inside = faiss.SearchParametersIVF(nprobe=probes)
            return faiss.IndexRefineSearchParameters(k_factor=times, base_index_params=inside)

        return parameters

    yield built("faiss Flat", "faiss Flat", "Flat", (0,), lambda _: None)
    yield built("faiss HNSW", f"faiss HNSW{M}", f"HNSW{M},Flat", EF_SEARCH, follow)
    yield built("faiss HNSW", f"faiss HNSW{2 * M}", f"HNSW{2 * M},Flat", EF_SEARCH, follow)
    yield built("faiss HNSW,SQ8", f"faiss HNSW{M},SQ8", f"HNSW{M},SQ8", EF_SEARCH, follow)
    product = f"IVF{lists},PQ{d // 4}x4fs,RFlat"
    yield built("faiss IVF-PQ", f"faiss {product}", product, NPROBE, refined(10))
    one_bit = f"IVF{lists},RaBitQ,Refine(SQ8)"
    yield built("faiss IVF-RaBitQ", f"faiss {one_bit}", one_bit, NPROBE, refined(10))


def of_hnswlib(base: Float32, threads: int) -> Iterator[Engine]:
    for links in (M, 2 * M):
        began = time.perf_counter()
        index = hnswlib.Index("ip", base.shape[1])
        index.init_index(len(base), links, EF_CONSTRUCTION)
        index.set_num_threads(threads)
        index.add_items(base)
        seconds = time.perf_counter() - began

        def search(queries: Float32, setting: int, index: Any = index) -> Any:
            index.set_ef(setting)
            return index.knn_query(queries, K)[0]

        size = index.index_file_size() / len(base)
        yield Engine("hnswlib", f"hnswlib M={links}", size, seconds, EF_SEARCH, search)


def of_usearch(base: Float32, threads: int) -> Iterator[Engine]:
    for kind in ("f32", "i8"):
        began = time.perf_counter()
        index = USearch(
            ndim=base.shape[1],
            metric="cos",
            dtype=kind,
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
        )
        index.add(np.arange(len(base)), base, threads=threads)
        seconds = time.perf_counter() - began

        def search(queries: Float32, setting: int, index: Any = index) -> Any:
            index.expansion_search = setting
            return index.search(queries, K, threads=threads).keys

        size = index.serialized_length / len(base)
        yield Engine(f"usearch {kind}", f"usearch {kind}", size, seconds, EF_SEARCH, search)


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
    print("Not an Intel processor: LeanVec is put together from its parts.")
    axes = np.linalg.eigh(base.T @ base)[1]
    for width in dims:
        A = np.ascontiguousarray(axes[:, -width:].T)
        images = base @ A.T
        scale = 127 / np.abs(images).max()
        coded = svs.Vamana.build(
            _GRAPH, np.rint(images * scale).astype(np.int8), svs.DistanceType.MIP, num_threads=threads
        )
        for n in (16, 20, 30, 50):

            def search(queries: Float32, setting: int, A: Float32 = A, index: Any = coded, n: int = n) -> Any:
                asked = queries @ A.T
                asked *= 127 / np.abs(asked).max()
                index.search_window_size = max(setting, n)
                found = index.search(np.rint(asked).astype(np.int8), n)[0].astype(np.int64)
                scores = np.empty(found.shape, np.float32)
                faiss.fvec_inner_products_by_idx(
                    *(faiss.swig_ptr(array) for array in (scores, queries, base, found)), d, *found.shape
                )
                order = np.argpartition(-scores, K - 1, axis=1)[:, :K]
                return np.take_along_axis(found, order, 1)

            size = width + 4 * (2 * M + 1)
            yield Engine(
                "LeanVec's parts",
                f"LeanVec's parts, {width} dims, {n} candidates",
                size,
                0.0,
                EF_SEARCH,
                search,
            )


_GRAPH = svs.VamanaBuildParameters(alpha=0.95, graph_max_degree=2 * M, window_size=EF_CONSTRUCTION)


def _vamana(group: str, name: str, loader: Any, threads: int, scratch: Path) -> Engine:
    began = time.perf_counter()
    index = svs.Vamana.build(_GRAPH, loader, svs.DistanceType.MIP, num_threads=threads)
    seconds = time.perf_counter() - began
    folder = scratch / name
    folder.mkdir()
    index.save(*(str(folder / part) for part in ("config", "graph", "data")))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / index.size

    def search(queries: Float32, setting: int) -> Any:
        index.search_window_size = setting
        return index.search(queries, K)[0]

    return Engine(group, name, size, seconds, EF_SEARCH, search)


def of_nearfold(base: Float32, threads: int, specs: Sequence[str], scratch: Path) -> Iterator[Engine]:
    faiss.omp_set_num_threads(threads)
    # As a user keeps them: full vectors stay in a file.
    saved = scratch / "base.npy"
    np.save(saved, base)
    fitter = CodecFitter(base)
    for spec in specs:
        name, kind, *candidates = spec.split("/")
        began = time.perf_counter()
        codec = fitter.fit(name)
        index = SearchIndex.build(codec, saved, kind=kind, M=M)
        seconds = time.perf_counter() - began
        folder = scratch / f"{name}-{kind}"
        index.save(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / len(base)
        parameter, settings = {
            "flat": (None, (1,)),
            "hnsw": ("ef_search", EF_SEARCH),
            "ivf": ("nprobe", NPROBE),
        }[kind]
        for n in map(int, candidates):

            def search(
                queries: Float32,
                setting: int,
                index: SearchIndex = index,
                n: int = n,
                parameter: str | None = parameter,
            ) -> Any:
                breadth: dict[str, Any] = {} if parameter is None else {parameter: setting}
                return index.search(queries, K, n_candidates=n, **breadth).ids

            yield Engine("nearfold", f"{name} {kind}, {n} candidates", size, seconds, settings, search)
