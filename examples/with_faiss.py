"""faiss: an index file with the fold inside, which plain faiss reads, adds to and searches."""

from __future__ import annotations

import tempfile
from pathlib import Path

import faiss
import numpy as np
from frame import CANDIDATES, K, Search, fitted, sample, show

from nearfold.integrations.faiss import write_faiss


def run(folder: Path) -> tuple[Search, Search]:
    base, queries = sample()
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    whole = faiss.index_factory(base.shape[1], "HNSW16", faiss.METRIC_INNER_PRODUCT)
    whole.hnsw.efSearch = 300
    whole.add(base)
    full = Search("full vectors", whole.search(queries, K)[1].tolist(), faiss.serialize_index(whole).size)

    write_faiss(fitted(base), folder / "fold.faiss", "HNSW16")
    folded = faiss.read_index(str(folder / "fold.faiss"))
    folded.add(base)
    faiss.downcast_index(folded.index).hnsw.efSearch = 300
    candidates = folded.search(queries, CANDIDATES)[1]
    scores = np.einsum("qcd,qd->qc", base[candidates], queries)
    best = np.argsort(-scores, axis=1)[:, :K]
    found = np.take_along_axis(candidates, best, 1).tolist()
    return full, Search("folded, re-ranked", found, faiss.serialize_index(folded).size)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("faiss", *run(Path(folder)))
