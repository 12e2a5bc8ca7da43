"""Queries that differ in kind from the base: what a fold learned with a sample of them keeps more.

Three cases from real vectors, with several numbers of queries. Words: nouns are the base, verbs and
adjectives ask. Encoders: the base is by one sentence encoder, and queries come from another one, mapped into
its space by ridge regression on rows that are in neither, as the towers of a two-tower model are near each
other and not equal. Packages: the base is long descriptions of packages, and short ones ask.

LeanVec-Sphering is written from its paper: arXiv 2312.16335.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
from data import load
from rich.console import Console
from rich.table import Table

from nearfold import PCA, NearFold, evaluate
from nearfold._utils.arrays import Float32, normalize_rows
from nearfold.cli.console import interval
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.intervals import estimate, paired_estimate
from nearfold.evaluation.recall import recall_of_neighbors

console = Console(width=130, highlight=False)

# What glosses of nouns begin with.
NOUN = re.compile(r"[^:]*: (?:\([^)]*\) )?(?:an?|the|any|one|someone|something|all|each|some) ")


def words(data: Path) -> tuple[Float32, Float32]:
    """Return nouns, and verbs and adjectives."""
    vectors = np.concatenate(load(data, "wordnet-minilm-384"))
    lines = (data / "wordnet.txt").read_text(encoding="utf-8").splitlines()
    noun = np.array([NOUN.match(line) is not None for line in lines])
    return normalize_rows(vectors[noun]), normalize_rows(vectors[~noun])


def encoders(data: Path) -> tuple[Float32, Float32]:
    """Return MiniLM's vectors, and MPNet's of other texts mapped into their space."""
    mini = np.concatenate(load(data, "wordnet-minilm-384"))
    wide = np.concatenate(load(data, "wordnet-mpnet-768"))
    known, asked = slice(0, 6000), slice(6000, 15000)
    gram = wide[known].T @ wide[known] + 10 * np.eye(wide.shape[1], dtype=np.float32)
    across = np.linalg.solve(gram, wide[known].T @ mini[known])
    return normalize_rows(mini[15000:]), normalize_rows(wide[asked] @ across)


def packages(data: Path) -> tuple[Float32, Float32]:
    """Return long descriptions of packages, and short ones."""
    base, asked = (np.load(data / f"packages-{name}minilm-384.npy") for name in ("", "queries-"))
    return normalize_rows(base.astype(np.float32)), normalize_rows(asked.astype(np.float32))


class TwoMaps(NamedTuple):
    """A map of base vectors and another of queries, whose inner products stand for those of the vectors."""

    base: Float32
    queries: Float32


def sphering(base: Float32, queries: Float32, m: int) -> TwoMaps:
    """Return LeanVec-Sphering's maps: those that change the inner products of queries and base least.

    With S the square root of the queries' second moments, the base times S is cut to its m leading axes P.
    Base vectors are mapped by P S, queries by P S^-1.
    """
    moments = (queries.T @ queries).astype(np.float64) / len(queries)
    values, axes = np.linalg.eigh(moments)
    # Fewer queries than dimensions leave directions without weight, whose inverse there is none of.
    roots = np.sqrt(np.maximum(values, 1e-4 * values.max()))
    sphere, back = (axes * roots) @ axes.T, (axes / roots) @ axes.T
    leading = np.linalg.eigh(sphere @ (base.T @ base).astype(np.float64) @ sphere)[1][:, ::-1][:, :m].T
    return TwoMaps((leading @ sphere).astype(np.float32), (leading @ back).astype(np.float32))


def recall_of_maps(maps: TwoMaps, truth: GroundTruth) -> dict[str, npt.NDArray[np.float64]]:
    """Return recall@10 and 10-recall@50 by query, of a search by inner products."""
    index = faiss.IndexFlatIP(len(maps.base))
    index.add(np.asarray(truth.base) @ maps.base.T)
    found = index.search(truth.queries @ maps.queries.T, 50)[1]
    return dict(recall_of_neighbors(truth, found, [10], [50]).per_query)


# Each case with the number of its last queries that are held out.
CASES = {
    "nouns, asked by verbs and adjectives": (words, 1000),
    "MiniLM, asked by MPNet": (encoders, 1000),
    "packages, asked by short descriptions": (packages, 500),
}
NUMBERS = (100, 500, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-d", "--dimensions", type=int, default=96)
    given = parser.parse_args()
    for name, (case, n_held) in CASES.items():
        base, others = case(given.data)
        held, sample = others[-n_held:], others[:-n_held]
        m = given.dimensions
        folds = {"PCA, uncentred": PCA(m, center=False).fit(base), "NearFold": NearFold(m).fit(base)}
        for number in [n for n in NUMBERS if n < len(sample)] + [len(sample)]:
            folds[f"NearFold, {number:,} queries"] = NearFold(m).fit(base, queries=sample[:number])
        table = Table(
            title=f"{name}: {len(base):,} rows, {base.shape[1]} -> {m}, {len(held):,} other queries"
        )
        for heading in ("fold", "recall@10", "minus NearFold without", "10-recall@50"):
            table.add_column(heading)
        judged = {
            label: evaluate(fold.encoder_, base, held, n_candidates=[50]).per_query
            for label, fold in folds.items()
        }
        truth = GroundTruth.compute(base, held, 10, "cosine")
        for number in (500, len(sample)):
            maps = sphering(base, sample[:number], m)
            judged[f"LeanVec-Sphering, {number:,} queries"] = recall_of_maps(maps, truth)
        plain = judged["NearFold"]["recall@10"]
        for label, shares in judged.items():
            gain = paired_estimate(shares["recall@10"], plain)
            table.add_row(
                label,
                interval(estimate(shares["recall@10"][:, None])[0]),
                "" if label == "NearFold" else interval(gain),
                interval(estimate(shares["10-recall@50"][:, None])[0]),
            )
        console.print(table)


if __name__ == "__main__":
    main()
