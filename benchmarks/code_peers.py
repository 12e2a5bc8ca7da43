"""The peers that `codes.py` measures nearfold's codecs against.

Those of faiss are here; what others publish without a quantiser of faiss is in `peer_sbert.py` and
`peer_ash.py`. QINCo2 takes torch and hours: `peer_qinco.py`, by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import faiss
from code_entries import DEPTH, Entry, Peer, shares
from data import Float32
from peer_ash import ash_peers
from peer_sbert import sbert_peers

from nearfold._utils.arrays import Metric
from nearfold.evaluation.ground_truth import GroundTruth

# faiss's local search takes minutes for each thousand rows that it learns from.
SLOW_ROWS = 20_000


def all_peers(n_bytes: int, d: int, metric: Metric, *, slow: bool) -> Iterator[Peer]:
    """Yield all peers of at most `n_bytes` for vectors of d dimensions."""
    for family, factory in faiss_factories(n_bytes, d, metric, slow=slow):
        yield Peer(family, factory, partial(faiss_entry, family, factory))
    yield from sbert_peers(n_bytes, d, metric)
    yield from ash_peers(n_bytes, d, metric)


def faiss_factories(n_bytes: int, d: int, metric: Metric, *, slow: bool) -> Iterator[tuple[str, str]]:
    """Yield families and the factory strings of faiss for codes of at most `n_bytes`."""
    n = n_bytes
    widths = [width for width in (2 * n, 4 * n, 8 * n) if width < d]
    if d % n == 0:
        yield "PQ", f"PQ{n}"
        if slow:
            yield "OPQ", f"OPQ{n},PQ{n}"
    for width in widths:
        yield "OPQ", f"OPQ{n}_{width},PQ{n}"
        yield "PCA,PQ", f"PCA{width},PQ{n}"
    # Sums of codewords have norms of their own, which distances need: a byte.
    books, norm = (n, "") if metric != "l2" else (n - 1, "_Nqint8")
    for width in [*widths, d]:
        before = f"PCA{width}," if width < d else ""
        family = "PCA," if before else ""
        yield f"{family}RQ", f"{before}RQ{books}x8{norm}"
        if not norm and n % 2 == 0 and width % 2 == 0:
            yield f"{family}PRQ", f"{before}PRQ2x{n // 2}x8"
        if slow and width <= 192:
            yield f"{family}LSQ", f"{before}LSQ{books}x8{norm}"
            if not norm and n % 2 == 0 and width % 2 == 0:
                yield f"{family}PLSQ", f"{before}PLSQ2x{n // 2}x8"
    for bits, name in ((1, "SQtqmse1"), (2, "SQtqmse2"), (4, "SQtqmse4")):
        width = min(8 * n // bits, d)
        yield "PCA,TurboQuant", f"PCA{width},RR{width},{name}"
    for bits, name in ((1, "EDEN1"), (2, "EDEN2"), (4, "EDEN4")):
        if (width := min(8 * (n - 8) // bits, d)) >= 32:
            yield "PCA,EDEN", f"PCA{width},RR{width},{name}"
    for bits, name in ((1, "RaBitQ"), (2, "RaBitQ2"), (4, "RaBitQ4")):
        room = n - (8 if bits == 1 else 20)
        if room > 0 and (width := min(8 * room // bits, d) // 8 * 8) >= 32:
            yield "PCA,RaBitQ", f"PCA{width},{name}"
    if 8 * n <= d:
        yield "ITQ", f"ITQ{8 * n},LSH"


def faiss_entry(
    family: str, factory: str, base: Float32, queries: Float32, truth: GroundTruth
) -> Entry | None:
    """Return what an index of faiss keeps, by the better of its metrics; None where faiss refuses it."""
    d, best = base.shape[1], None
    for metric in (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2):
        if truth.metric == "l2" and metric != faiss.METRIC_L2:
            continue
        if truth.metric != "l2" and metric == faiss.METRIC_L2 and ("RQ" in factory or "LSQ" in factory):
            continue
        try:
            index = faiss.index_factory(d, factory, metric)
        except RuntimeError:
            continue
        began = time.perf_counter()
        index.train(base[:SLOW_ROWS] if "LSQ" in factory else base)
        learned = time.perf_counter()
        index.add(base)
        encoded = time.perf_counter()
        inner = faiss.downcast_index(getattr(index, "index", index))
        if hasattr(inner, "qb"):
            inner.qb = 0
        found = index.search(queries, DEPTH)[1]
        entry = Entry(
            f"faiss {factory}",
            family,
            int(inner.sa_code_size()),
            shares(truth, found),
            learned - began,
            len(base) / (encoded - learned),
            0.0,
        )
        if best is None or entry.shares["recall@10"].mean() > best.shares["recall@10"].mean():
            best = entry
    return best
