"""The referee of codes: nearfold's codecs and what others make of as many bytes, in one table.

Bytes are all that is stored for a vector, norms and factors included. Quantisers of faiss come without a
fold, behind PCA and behind NearFold's fold. A peer may choose its width and its metric by the held-out
queries themselves, which flatters it: of a family's variants the best counts. Ours are named beforehand.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from code_entries import DEPTH, Entry, shares
from code_peers import all_peers, faiss_entry
from data import Float32, load
from rich.console import Console
from rich.table import Table

from nearfold._utils.arrays import Metric, normalize_rows
from nearfold.cli.console import interval
from nearfold.codecs.fitting import CodecFitter
from nearfold.codecs.quantizers.base import filled
from nearfold.errors import NearfoldError
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.intervals import estimate, paired_estimate

console = Console(width=150, highlight=False)

SETS: dict[str, Metric] = {
    "wordnet-minilm-384": "cosine",
    "npm-minilm-384": "cosine",
    "packages-minilm-384": "cosine",
    "packages-asked": "cosine",
    "wordnet-mpnet-768": "cosine",
    "sift-128": "l2",
}
SIZES = (16, 24, 32, 48, 96)
COLUMNS = ("recall@10", "10-recall@100")


def vectors_of(folder: Path, name: str) -> tuple[Float32, Float32]:
    """Return base and held-out queries; "packages-asked" has queries of another kind than its base."""
    if name != "packages-asked":
        return load(folder, name)
    base = np.load(folder / "packages-minilm-384.npy").astype(np.float32)
    return base, np.load(folder / "packages-queries-minilm-384.npy").astype(np.float32)


def ours(n_bytes: int, d: int) -> list[str]:
    """Return the codecs of nearfold: additive codes at 8 and 14 dimensions a byte, or at 4 and at all."""
    widths = [width for width in (8 * n_bytes, 14 * n_bytes) if width < d]
    if widths:
        return [f"NearFold{width},AQ{n_bytes}" for width in widths]
    return [*([f"NearFold{4 * n_bytes},AQ{n_bytes}"] if 4 * n_bytes < d else []), f"AQ{n_bytes}"]


def scalar(n_bytes: int, d: int) -> list[str]:
    """Return nearfold's own use of the field's quantisers."""
    specs = [f"NearFold{4 * n_bytes},OPQ{n_bytes}", f"NearFold{8 * n_bytes},OPQ{n_bytes}"]
    specs += [f"NearFold{8 * n_bytes},RSQ1", f"NearFold{4 * n_bytes},RSQ2"]
    specs += [f"NearFold{8 * n_bytes},Binary", f"NearFold{2 * n_bytes},SQ4", f"NearFold{n_bytes},SQ8"]
    return [spec for spec in specs if int(spec[8:].split(",")[0]) < d]


def codec_entry(family: str, spec: str, fitter: CodecFitter, base: Float32, truth: GroundTruth) -> Entry:
    """Return what a codec of nearfold keeps; the time of learning includes the fold's and the scan's."""
    began = time.perf_counter()
    codec = fitter.fit(spec)
    learned = time.perf_counter()
    codes = codec.encode(base)
    encoded = time.perf_counter()
    index = filled(codec.index(), codes)
    found = index.search(codec.prepare_queries(truth.queries), DEPTH)[1]
    return Entry(
        spec,
        family,
        codec.bytes_per_vector,
        shares(truth, found),
        learned - began,
        len(base) / (encoded - learned),
        codec.shared_bytes / 1e6,
    )


def race(
    name: str,
    n_bytes: int,
    base: Float32,
    queries: Float32,
    metric: Metric,
    *,
    slow: bool,
    wanted: str,
    own: str,
    note: Callable[[Entry], None],
) -> list[Entry]:
    """Return every codec's result on one set at one size; peers match the regex `wanted`, ours `own`."""
    d = base.shape[1]
    truth = GroundTruth.compute(base, queries, 10, metric)
    entries: list[Entry] = []

    def keep(entry: Entry | None) -> None:
        if entry is not None and entry.n_bytes <= n_bytes:
            entries.append(entry)
            note(entry)

    for family, specs in (("nearfold", ours(n_bytes, d)), ("nearfold, others' codes", scalar(n_bytes, d))):
        for spec in specs:
            if not re.fullmatch(own, spec):
                continue
            try:
                keep(codec_entry(family, spec, CodecFitter(base, metric=metric), base, truth))
            except NearfoldError as error:
                console.print(f"{name}, {spec}: {error}")
    for peer in all_peers(n_bytes, d, metric, slow=slow):
        if re.fullmatch(wanted, peer.label):
            keep(peer.measure(base, queries, truth))
    if re.fullmatch(own, "NearFold,RQ"):
        keep(residual_behind_fold(n_bytes, base, queries, metric, truth))
    return entries


def residual_behind_fold(
    n_bytes: int, base: Float32, queries: Float32, metric: Metric, truth: GroundTruth
) -> Entry | None:
    """Return what faiss's residual quantiser keeps behind our fold: NearFold in place of PCA."""
    d = base.shape[1]
    width = 4 * n_bytes if 4 * n_bytes < d else n_bytes
    fold = CodecFitter(base, metric=metric).fold("nearfold", width)
    folded, asked = fold.transform(base), fold.transform(queries)
    if metric == "cosine":
        folded, asked = normalize_rows(folded), normalize_rows(asked)
    books, norm = (n_bytes, "") if metric != "l2" else (n_bytes - 1, "_Nqint8")
    entry = faiss_entry("NearFold,RQ", f"RQ{books}x8{norm}", folded, asked, truth)
    return entry and entry._replace(label=f"NearFold{width} + {entry.label}")


def print_race(name: str, n_bytes: int, rows: int, entries: list[Entry]) -> dict[str, Any]:
    """Print the table of a race, and return what it says for JSON."""
    best: dict[str, Entry] = {}
    for entry in entries:
        held = best.get(entry.family)
        if held is None or entry.shares["recall@10"].mean() > held.shares["recall@10"].mean():
            best[entry.family] = entry
    table = Table(title=f"{name}, {rows:,} rows, {n_bytes} bytes: the best of each family")
    for heading in ("codes", "bytes", *COLUMNS, "learn s", "rows/s encoded", "shared MB"):
        table.add_column(heading, no_wrap=True)
    ranked = sorted(best.values(), key=lambda e: -e.shares["recall@10"].mean())
    for entry in ranked:
        table.add_row(
            entry.label,
            str(entry.n_bytes),
            *(interval(estimate(entry.shares[column][:, None])[0]) for column in COLUMNS),
            f"{entry.learn_seconds:.1f}",
            f"{entry.rows_a_second:,.0f}",
            f"{entry.shared_megabytes:.1f}" if entry.shared_megabytes else "",
        )
    console.print(table)
    told: dict[str, Any] = {"set": name, "bytes": n_bytes, "rows": rows}
    told["entries"] = {e.label: [float(e.shares[c].mean()) for c in COLUMNS] for e in entries}
    rivals = [entry for entry in entries if not entry.family.startswith("nearfold")]
    own = [entry for entry in entries if entry.family == "nearfold"]
    for mine in dict.fromkeys((own[0].label, best["nearfold"].label) if own and rivals else ()):
        entry = next(e for e in entries if e.label == mine)
        rival = max(rivals, key=lambda e: e.shares["recall@10"].mean())
        gain = paired_estimate(entry.shares["recall@10"], rival.shares["recall@10"])
        told[f"{mine} minus {rival.label}"] = gain._asdict()
        console.print(f"{mine} minus {rival.label}: {interval(gain)}")
    console.print()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--bytes", nargs="+", type=int, choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--slow", action="store_true", help="with what faiss learns for minutes: LSQ, PLSQ, wide OPQ"
    )
    parser.add_argument(
        "--peers",
        default=".*",
        help="peers whose name in the table (faiss: factory string) matches this regex alone",
    )
    parser.add_argument("--own", default=".*", help="of our codecs those that match this regex alone")
    parser.add_argument("--out", type=Path, help="write all figures to this file, one JSON object a line")
    given = parser.parse_args()
    for name in given.sets:
        base, queries = vectors_of(given.data, name)
        if SETS[name] == "cosine":
            base, queries = normalize_rows(base), normalize_rows(queries)
        for n_bytes in given.bytes:

            def note(entry: Entry, title: str = f"{name}, {n_bytes}") -> None:
                mean = entry.shares["recall@10"].mean()
                console.print(f"{title}: {entry.label} {mean:.4f} ({entry.learn_seconds:.0f} s)")

            entries = race(
                name,
                n_bytes,
                base,
                queries,
                SETS[name],
                slow=given.slow,
                wanted=given.peers,
                own=given.own,
                note=note,
            )
            told = print_race(name, n_bytes, len(base), entries)
            if given.out:
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
