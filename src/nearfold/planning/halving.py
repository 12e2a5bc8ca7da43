"""Successive halving: many codecs on few rows, the best of them on more.

Jamieson and Talwalkar, "Non-stochastic best arm identification" (AISTATS 2016). The budget that grows is
the share of the rows, and with it how long codes are trained.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Int64, Metric
from nearfold._utils.progress import stage
from nearfold.codecs.codec import Codec
from nearfold.codecs.fitting import CodecFitter
from nearfold.codecs.quantizers.base import filled
from nearfold.codecs.spec import CodecSpec
from nearfold.errors import NearfoldError, ParameterError
from nearfold.evaluation.ground_truth import GroundTruth, warn_of_copies
from nearfold.evaluation.labels import LabelledQueries, ranked, search_depth
from nearfold.evaluation.qrels import Labels
from nearfold.evaluation.recall import EvaluationResult, recall_of_neighbors
from nearfold.scan.exact import exact_scores

__all__ = ["RUNGS", "Rung", "Trial", "judged", "successive_halving"]


@dataclass(frozen=True)
class Rung:
    """One round.

    Parameters
    ----------
    share : float
        The share of the rows that codecs are learned from and searched in.
    keep : float
        The share of the codecs of one size that may go on to the next round; at least one does.
    within : float
        Of those, codecs go on that lose at most so much more than the best one: a share of its loss.
    budget : float
        The share of the usual steps that learning takes.
    """

    share: float
    keep: float
    within: float
    budget: float


RUNGS = (Rung(1 / 8, 0.25, 0.03, 0.25), Rung(1 / 3, 0.5, 0.0, 0.25), Rung(1.0, 0.0, 0.0, 1.0))

# Fewer rows than these say little of neighbours, so smaller data skips rounds.
_LEAST_ROWS = 2000


@dataclass(frozen=True, eq=False)
class Trial:
    """One codec, fitted and measured in one round.

    Parameters
    ----------
    spec : CodecSpec
        The codec that was tried.
    rung : int
        The number of the round, from 0; the last one sees all rows.
    codec : Codec
        The codec as learned there.
    evaluation : EvaluationResult
        What it keeps of the validation queries' neighbours, and of what they find where they have labels.
    fit_seconds, encode_seconds : float
        Wall time.
    rows : int
        How many rows it was learned from.
    """

    spec: CodecSpec
    rung: int
    codec: Codec
    evaluation: EvaluationResult
    fit_seconds: float
    encode_seconds: float
    rows: int

    def quality(self, column: str) -> float:
        """Return the mean share that is kept in a column of the evaluation.

        Parameters
        ----------
        column : str
            The name of the column, such as "recall@10" or "nDCG@10"; see `EvaluationResult.kept`.

        Returns
        -------
        float
        """
        return self.evaluation.kept(column).mean


def judged(
    codec: Codec, truth: GroundTruth, k: int, n_candidates: int, labelled: LabelledQueries | None = None
) -> tuple[EvaluationResult, float]:
    """Return how much a codec keeps of the true neighbours, and how long encoding the base took.

    Parameters
    ----------
    codec : Codec
        The codec.
    truth : GroundTruth
        The true neighbours, at least k of each query, in a base that is an array.
    k : int
        The k of recall@k.
    n_candidates : int
        The R of k-recall@R, which is counted if R is above k and the base has as many rows. Where labels
        are measured, the vectors put so many documents in order; those behind them stay in that of the codes.
    labelled : LabelledQueries, optional
        The labels of the queries, if there are any.

    Returns
    -------
    evaluation : EvaluationResult
        The recall of a search of the codes, with what labelled queries find by codes and vectors.
    seconds : float
        The wall time of encoding the base.
    """
    began = time.perf_counter()
    codes = codec.encode(np.asarray(truth.base))
    seconds = time.perf_counter() - began
    index = filled(codec.index(), codes)
    depth = 0 if labelled is None else search_depth(labelled.ks, len(codes))
    scores, found = index.search(codec.prepare_queries(truth.queries), max(k, n_candidates, depth))
    counts = [n_candidates] if k < n_candidates <= len(codes) else []
    result = recall_of_neighbors(truth, found, [k], counts)
    if labelled is not None:
        rows = labelled.labels.query_rows
        if codec.projection.score == "l2":
            scores = -scores
        order = _two_stages(truth, rows, found[rows], scores[rows].astype(np.float64), n_candidates)
        result = replace(result, labels=labelled.result(order[:, :depth]))
    return result, seconds


def _two_stages(
    truth: GroundTruth, query_rows: Int64, found: Int64, scores: Float64, n_candidates: int
) -> Int64:
    """Return what codes found of some queries, best first, the first candidates in order by vectors."""
    order = ranked(found, scores)
    if n_candidates:
        first = order[:, :n_candidates]
        exact = exact_scores(truth.base, truth.queries[query_rows], first, truth.metric)
        order[:, :n_candidates] = ranked(first, exact)
    return order


def successive_halving(
    base: Float32,
    queries: Float32,
    specs: Sequence[CodecSpec],
    sizes: Sequence[int],
    *,
    metric: Metric,
    k: int,
    n_candidates: int,
    column: str,
    seed: int,
    seconds: float | None,
    labels: Labels | None = None,
    fit_queries: Float32 | None = None,
    rungs: Sequence[Rung] = RUNGS,
) -> tuple[list[Trial], list[tuple[CodecSpec, str]]]:
    """Try codecs on few rows, and the best of them on more.

    Parameters
    ----------
    base : ndarray of shape (n, d), float32
        The rows to learn from and to search in.
    queries : ndarray of shape (q, d), float32
        The validation queries.
    specs : sequence of CodecSpec
        The codecs.
    sizes : sequence of int
        The number of bytes that each codec competes in.
    metric : {"cosine", "l2", "ip"}
        The metric that is searched with.
    k : int
        How many neighbours count.
    n_candidates : int
        How many candidates are put in order by vectors; 0 for none.
    column : str
        The measure that decides which codecs go on.
    seed : int
        The seed of everything drawn at random.
    seconds : float, optional
        Begin no further fit after so long; None for no limit. The first round is always finished.
    labels : Labels, optional
        The labels of the queries, if there are any. The rows of every round hold all relevant documents.
    fit_queries : ndarray of shape (p, d), float32, optional
        A sample of other queries to learn from, beside the rows.
    rungs : sequence of Rung
        The rounds; those that would see too few rows are skipped.

    Returns
    -------
    trials : list of Trial
        The trials of all rounds.
    failed : list of (CodecSpec, str)
        The codecs that could not be fitted, with the reason.

    Raises
    ------
    ParameterError
        No codec could be fitted.
    """
    began = time.monotonic()
    alive = list(zip(specs, sizes, strict=True))
    done: list[Trial] = []
    failed: list[tuple[CodecSpec, str]] = []
    rounds = [rung for rung in rungs if rung.share == 1 or rung.share * len(base) >= _LEAST_ROWS]
    order = np.random.default_rng(seed).permutation(len(base))
    for number, rung in enumerate(rounds):
        if number < len(rounds) - 1 and len(alive) == len(set(sizes)):
            # One is left of each size: only its last fit tells more.
            continue
        first = not done
        drawn = np.sort(order[: max(2, round(rung.share * len(base)))])
        if labels is not None:
            drawn = np.union1d(drawn, labels.relevant())
        rows = base[drawn]
        depth = k if labels is None else search_depth([k], len(rows))
        truth = GroundTruth.compute(rows, queries, depth, metric)
        labelled = None if labels is None else LabelledQueries.of(labels.among(drawn), truth, [k])
        fitter = CodecFitter(rows, metric=metric, queries=fit_queries, seed=seed, budget=rung.budget)
        tried: list[tuple[Trial, int]] = []
        with stage(f"round {number + 1} of {len(rounds)}", len(alive), "codecs") as advance:
            for spec, size in alive:
                if not first and seconds is not None and time.monotonic() - began > seconds:
                    break
                try:
                    trial = _trial(fitter, spec, number, truth, k, n_candidates, labelled)
                except NearfoldError as error:
                    failed.append((spec, str(error).removeprefix(f"{spec}: ")))
                else:
                    done.append(trial)
                    tried.append((trial, size))
                advance(1)
            else:
                alive = _survivors(tried, rung, column)
                continue
        break
    warn_of_copies(truth)
    if not done:
        raise ParameterError(f"no codec could be fitted: {_told(failed)}")
    return done, failed


def _told(failed: list[tuple[CodecSpec, str]]) -> str:
    return "{}: {}".format(*failed[0]) if failed else "none was given"


def _trial(
    fitter: CodecFitter,
    spec: CodecSpec,
    number: int,
    truth: GroundTruth,
    k: int,
    n_candidates: int,
    labelled: LabelledQueries | None,
) -> Trial:
    began = time.perf_counter()
    codec = fitter.fit(spec)
    seconds = time.perf_counter() - began
    evaluation, encoding = judged(codec, truth, k, n_candidates, labelled)
    return Trial(spec, number, codec, evaluation, seconds, encoding, len(truth.base))


def _survivors(tried: Sequence[tuple[Trial, int]], rung: Rung, column: str) -> list[tuple[CodecSpec, int]]:
    """Return the codecs of each size that may be the best, with the best of all first."""
    kept: list[tuple[float, CodecSpec, int]] = []
    for size in {size for _, size in tried}:
        group = sorted(
            (trial for trial, own in tried if own == size), key=lambda t: t.quality(column), reverse=True
        )
        best = group[0].quality(column)
        # More than all may be kept of labels.
        least = best - rung.within * max(0.0, 1 - best)
        kept += [
            (t.quality(column), t.spec, size)
            for t in group[: max(1, round(rung.keep * len(group)))]
            if t is group[0] or t.quality(column) >= least
        ]
    return [(spec, size) for _, spec, size in sorted(kept, key=lambda entry: entry[0], reverse=True)]
