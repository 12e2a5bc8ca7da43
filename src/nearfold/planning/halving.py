"""Successive halving: many pipelines on few rows, the best of them on more.

Jamieson and Talwalkar, "Non-stochastic best arm identification" (AISTATS 2016). The budget that grows is
the share of the rows, and with it how long codes are trained.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nearfold.arrays import Float32, Metric
from nearfold.errors import NearfoldError, ParameterError
from nearfold.evaluation.judge import Judgement, judge_found
from nearfold.evaluation.truth import Truth
from nearfold.pipeline.fitting import PipelineFitter
from nearfold.pipeline.learning import CodeLearning
from nearfold.pipeline.pipeline import Pipeline
from nearfold.pipeline.spec import PipelineSpec
from nearfold.progress import stage
from nearfold.quantizers.base import filled

__all__ = ["RUNGS", "Rung", "Trial", "judged", "successive_halving"]


@dataclass(frozen=True)
class Rung:
    """One round.

    Parameters
    ----------
    share
        Of the rows.
    keep
        The share of the candidates of one size that go on to the next round, at least one.
    steps
        Of the training of codes.
    """

    share: float
    keep: float
    steps: int


RUNGS = (Rung(1 / 8, 0.25, 40), Rung(1 / 3, 0.34, 75), Rung(1.0, 0.0, CodeLearning().n_steps))

# Fewer rows than these say little of neighbours, so smaller data skips rounds.
_LEAST_ROWS = 2000


@dataclass(frozen=True, eq=False)
class Trial:
    """One pipeline, judged.

    Parameters
    ----------
    spec
        What was tried.
    rung
        The round, from 0; the last one saw all rows.
    pipeline
        As learned there.
    judgement
        On the validation queries.
    fit_seconds, encode_seconds
        Wall time.
    rows
        How many rows it was learned from.
    """

    spec: PipelineSpec
    rung: int
    pipeline: Pipeline
    judgement: Judgement
    fit_seconds: float
    encode_seconds: float
    rows: int

    def quality(self, column: str) -> float:
        """Return the mean of a column of the judgement, such as "P@10"."""
        return float(self.judgement.per_query[column].mean())


def judged(pipeline: Pipeline, truth: Truth, k: int, depth: int) -> tuple[Judgement, float]:
    """Return what a pipeline keeps of truth's neighbours, and the seconds that encoding the base took."""
    began = time.perf_counter()
    codes = pipeline.encode(np.asarray(truth.base))
    seconds = time.perf_counter() - began
    index = filled(pipeline.index(), codes)
    found = index.search(pipeline.queries(truth.queries), max(k, depth))[1]
    depths = [depth] if k < depth <= len(codes) else []
    return judge_found(truth, found, [k], depths), seconds


def successive_halving(
    base: Float32,
    queries: Float32,
    specs: Sequence[PipelineSpec],
    sizes: Sequence[int],
    *,
    metric: Metric,
    k: int,
    depth: int,
    column: str,
    seed: int,
    seconds: float | None,
    rungs: Sequence[Rung] = RUNGS,
) -> tuple[list[Trial], list[tuple[PipelineSpec, str]]]:
    """Try pipelines, and return the last trial of each, and those that could not be fitted, with the reason.

    Parameters
    ----------
    base, queries
        Rows to learn from and search in (n, d), and rows to judge with (q, d).
    specs, sizes
        Pipelines, and the number of bytes that each competes in.
    metric, k, depth, column, seed
        What is searched with; what is judged; the judgement's column that decides; of all draws.
    seconds
        Begin no further fit after so long; None for no limit. The first round is always finished.
    rungs
        The rounds; those of too few rows are left out.

    Raises
    ------
    ParameterError
        No pipeline could be fitted.
    """
    began = time.monotonic()
    alive = list(zip(specs, sizes, strict=True))
    best: dict[PipelineSpec, Trial] = {}
    failed: list[tuple[PipelineSpec, str]] = []
    rounds = [rung for rung in rungs if rung.share == 1 or rung.share * len(base) >= _LEAST_ROWS]
    order = np.random.default_rng(seed).permutation(len(base))
    for number, rung in enumerate(rounds):
        rows = base[np.sort(order[: max(2, round(rung.share * len(base)))])]
        truth = Truth.compute(rows, queries, k, metric)
        fitter = PipelineFitter(rows, metric=metric, seed=seed)
        tried: list[tuple[Trial, int]] = []
        with stage(f"round {number + 1} of {len(rounds)}", len(alive), "pipelines") as advance:
            for spec, size in alive:
                if number and seconds is not None and time.monotonic() - began > seconds:
                    break
                try:
                    trial = _trial(fitter, spec, number, rung, truth, k, depth, len(rows))
                except NearfoldError as error:
                    failed.append((spec, str(error)))
                else:
                    best[spec] = trial
                    tried.append((trial, size))
                advance(1)
            else:
                alive = _survivors(tried, rung.keep, column)
                continue
        break
    if not best:
        raise ParameterError(f"no pipeline could be fitted: {failed[0][1] if failed else 'none was given'}")
    return list(best.values()), failed


def _trial(
    fitter: PipelineFitter,
    spec: PipelineSpec,
    number: int,
    rung: Rung,
    truth: Truth,
    k: int,
    depth: int,
    rows: int,
) -> Trial:
    began = time.perf_counter()
    pipeline = fitter.fit(spec, CodeLearning(n_steps=rung.steps))
    seconds = time.perf_counter() - began
    judgement, encoding = judged(pipeline, truth, k, depth)
    return Trial(spec, number, pipeline, judgement, seconds, encoding, rows)


def _survivors(
    tried: Sequence[tuple[Trial, int]], keep: float, column: str
) -> list[tuple[PipelineSpec, int]]:
    """Return the best of each size, the best first."""
    kept: list[tuple[float, PipelineSpec, int]] = []
    for size in {size for _, size in tried}:
        group = sorted(
            (trial for trial, own in tried if own == size), key=lambda t: t.quality(column), reverse=True
        )
        kept += [(t.quality(column), t.spec, size) for t in group[: max(1, round(keep * len(group)))]]
    return [(spec, size) for _, spec, size in sorted(kept, key=lambda entry: entry[0], reverse=True)]
