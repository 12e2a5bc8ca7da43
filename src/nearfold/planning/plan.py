"""Choose a codec for a number of bytes, a recall or an nDCG.

A plan holds the trials, their front, and what a wrong choice costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from nearfold._utils.arrays import Float32, Metric, check_metric, check_positive
from nearfold.codecs.codec import Codec
from nearfold.codecs.spec import CodecSpec, parse_spec
from nearfold.errors import DataError, ParameterError
from nearfold.evaluation.intervals import Estimate
from nearfold.evaluation.labels import asked_labels, ndcg_column
from nearfold.evaluation.recall import paired_difference
from nearfold.evaluation.split import base_and_queries, rows_and_queries
from nearfold.io.vectors import as_source
from nearfold.methods.queries import sample_of_queries
from nearfold.planning.candidates import candidates, ladder
from nearfold.planning.halving import Trial, successive_halving

__all__ = ["STORAGE", "Plan", "Storage", "plan"]

Storage: TypeAlias = Literal["memory", "disk", "nowhere"]
"""Where the vectors are kept beside their codes: on disk reading some takes time; nowhere, codes are all."""

STORAGE: tuple[str, ...] = get_args(Storage)


@dataclass(frozen=True, eq=False)
class Plan:
    """What `plan` tried, and what it recommends.

    Parameters
    ----------
    metric : {"cosine", "l2", "ip"}
        The metric that vectors are searched with.
    k : int
        How many neighbours count.
    n_candidates : int
        How many candidates of each query the vectors put in order; 0 where codes alone decide.
    column : str
        The measure that decided: "recall@k", or "k-recall@R" where the vectors put R candidates in order;
        or "nDCG@k", of which the share that is kept counts.
    storage : {"memory", "disk", "nowhere"}
        Where the vectors are kept.
    n_features : int
        The dimensions d of the vectors.
    n_queries : int
        How many validation queries measured the codecs.
    trials : tuple of Trial
        The last trial of each codec; those of the last round saw all rows.
    failed : tuple of (CodecSpec, str)
        Codecs that could not be fitted, with the reason.
    chosen : Trial
        The recommended trial.
    runner_up : Trial, optional
        The other codec of at most as many bytes that got farthest, and the best of those; None where there
        is none. It is compared with the chosen one in the last round that both were in.
    against : Trial, optional
        The chosen codec's trial in the runner-up's last round, to compare the two.
    reached : bool, optional
        Whether the recall or the share of nDCG that the caller wants is reached by the lower end of its
        interval; None where the caller gave bytes.
    """

    metric: Metric
    k: int
    n_candidates: int
    column: str
    storage: str
    n_features: int
    n_queries: int
    trials: tuple[Trial, ...]
    failed: tuple[tuple[CodecSpec, str], ...]
    chosen: Trial
    runner_up: Trial | None
    against: Trial | None
    reached: bool | None

    @property
    def codec(self) -> Codec:
        """The recommended codec, learned from all rows that are not validation queries."""
        return self.chosen.codec

    @property
    def measures(self) -> dict[str, str]:
        """The names of what `EvaluationResult.kept` returns, by column; the first is of the one that decided.

        They are the column of neighbours itself, and "nDCG@k kept" if there are labels.
        """
        neighbors, found = _neighbor_column(self.k, self.n_candidates), ndcg_column(self.k)
        names = {neighbors: neighbors}
        if self.chosen.evaluation.labels is not None:
            names[found] = f"{found} kept"
        return {self.column: names.pop(self.column), **names}

    def kept(self, trial: Trial) -> Estimate:
        """Return what a trial keeps of the neighbours, or of nDCG, in the column that decided.

        Parameters
        ----------
        trial : Trial
            One of `trials`.

        Returns
        -------
        Estimate
            The mean over validation queries, and its 95% confidence interval.
        """
        return trial.evaluation.kept(self.column)

    def front(self) -> list[Trial]:
        """Return the trials of the last round that no other trial beats both in bytes and in recall.

        Returns
        -------
        list of Trial
            The trials by ascending bytes, and so by ascending recall.
        """
        last = max(trial.rung for trial in self.trials)
        ranked = sorted(
            (trial for trial in self.trials if trial.rung == last),
            key=lambda t: (t.codec.bytes_per_vector, -t.quality(self.column)),
        )
        front: list[Trial] = []
        for trial in ranked:
            if not front or trial.quality(self.column) > front[-1].quality(self.column):
                front.append(trial)
        return front

    def cost_of_error(self) -> Estimate | None:
        """Return the recall, or nDCG, of the runner-up minus that of the chosen codec, paired by query.

        This is what is lost if the runner-up is in truth the better codec.

        Returns
        -------
        Estimate or None
            None if there is no runner-up.
        """
        if self.runner_up is None or self.against is None:
            return None
        return paired_difference(self.runner_up.evaluation, self.against.evaluation, self.column)

    def as_dict(self) -> dict[str, Any]:
        """Return everything that was measured as values of JSON.

        Returns
        -------
        dict of str to object
        """
        error = self.cost_of_error()
        front = set(map(id, self.front()))
        return {
            "metric": self.metric,
            "column": self.column,
            "measure": self.measures[self.column],
            "n_candidates": self.n_candidates,
            "storage": self.storage,
            "queries": self.n_queries,
            "chosen": str(self.chosen.spec),
            "reached": self.reached,
            "runner_up": None if self.runner_up is None else str(self.runner_up.spec),
            "compared_on_rows": None if self.against is None else self.against.rows,
            "runner_up_minus_chosen": None if error is None else error._asdict(),
            "trials": [
                {
                    "codec": str(trial.spec),
                    "round": trial.rung + 1,
                    "rows": trial.rows,
                    "bytes_per_vector": trial.codec.bytes_per_vector,
                    "shared_bytes": trial.codec.shared_bytes,
                    "on_front": id(trial) in front,
                    "kept": self.kept(trial)._asdict(),
                    "evaluation": trial.evaluation.as_dict(),
                    "fit_seconds": trial.fit_seconds,
                    "encode_seconds": trial.encode_seconds,
                }
                for trial in self.trials
            ],
            "failed": [{"codec": str(spec), "reason": reason} for spec, reason in self.failed],
        }


def plan(
    X: Any,
    *,
    n_bytes: int | None = None,
    recall: float | None = None,
    ndcg: float | None = None,
    metric: Metric = "cosine",
    k: int = 10,
    n_candidates: int | None = None,
    storage: Storage = "disk",
    queries: Any = None,
    n_queries: int | None = None,
    codecs: Sequence[str | CodecSpec] | None = None,
    seconds: float | None = None,
    seed: int = 0,
    qrels: Any = None,
    fit_queries: Any = None,
) -> Plan:
    """Find the codec that keeps most in a number of bytes, or the fewest bytes that keep enough.

    Every codec is measured on queries that it hasn't seen. Choosing the best of many on the same queries
    flatters the choice a little: evaluate the result on other queries before you publish a figure.

    Parameters
    ----------
    X : array-like of shape (n, d), data frame, path, URL or Source
        The base vectors, of any real dtype. Of files that need more memory than the budget of
        `nearfold.config_context` a sample is drawn, with a warning.
    n_bytes : int, optional
        The bytes that a vector may take. Give this, `recall` or `ndcg`.
    recall : float, optional
        The share of the true top k to keep, in (0, 1).
    ndcg : float, optional
        The share of the full vectors' nDCG@k to keep, in (0, 1). This needs `qrels`.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        The metric that vectors are searched with.
    k : int, default=10
        How many neighbours count.
    n_candidates : int, optional
        How many candidates of each query the vectors put in order; None for 5 k where vectors are kept, else
        none.
    storage : {"memory", "disk", "nowhere"}, default="disk"
        Where the vectors are kept beside their codes.
    queries : as X, of shape (q, d), optional
        The validation queries; None to hold out rows of X.
    n_queries : int, optional
        How many rows of X to hold out; None for a tenth, at most 1,000.
    codecs : sequence of str or CodecSpec, optional
        The codecs to try; None for all that fit.
    seconds : float, optional
        Begin no further fit after so long; None for no limit.
    seed : int, default=0
        The seed of everything drawn at random.
    qrels : Qrels, mapping, str or path-like, optional
        Relevance labels of the queries, as for `evaluate`. Every trial's evaluation then has `labels`, of a
        search that puts the candidates in order by the vectors. They decide where `ndcg` is given.
    fit_queries : as X, of shape (p, d), optional
        A sample of queries that folds and codes are learned from, where they differ from the base in kind;
        see `fit_codec`. None of them may be a validation query. By default all is learned from the base.

    Returns
    -------
    Plan
        Its `codec` is the recommended one, ready to use.

    Raises
    ------
    ParameterError
        Not exactly one of `n_bytes`, `recall` and `ndcg` is given, `ndcg` is given without `qrels` or these
        without queries, or a parameter is out of range.
    DataError
        X or queries are not a finite table of vectors, X has fewer than four, a row is zero under cosine, a
        labelled query or document doesn't exist, or a validation query would be learned from.
    FileError
        A file can't be read.
    MissingExtraError
        `qrels` need the extra `labels`.
    """
    if sum(each is not None for each in (n_bytes, recall, ndcg)) != 1:
        raise ParameterError(
            "give one of bytes, recall and ndcg: how small vectors must be, or how much to keep"
        )
    if ndcg is not None and qrels is None:
        raise ParameterError("ndcg needs qrels: which documents answer which queries")
    if storage not in STORAGE:
        raise ParameterError(f"storage={storage!r} is unknown; use one of {', '.join(STORAGE)}")
    if storage == "nowhere" and n_candidates:
        raise ParameterError("n_candidates needs stored vectors; without any, codes alone decide")
    check_positive("k", k)
    reranked = (0 if storage == "nowhere" else 5 * k) if n_candidates is None else n_candidates
    check_positive("n_candidates", reranked, zero=True)
    vectors, given = rows_and_queries(X, queries, [check_metric(metric)], min_rows=4, seed=seed)
    base, validation = base_and_queries(vectors, given, n_queries, seed)
    learned_from = sample_of_queries(fit_queries, as_source(base))
    if learned_from is not None and (known := _shared_row(learned_from, validation)) is not None:
        raise DataError(f"fit_queries: row {known} is among the queries that measure; learn from other ones")
    labels = asked_labels(qrels, X, queries, len(base), len(validation))
    column = _neighbor_column(k, reranked) if ndcg is None else ndcg_column(k)
    if reranked >= len(base):
        raise ParameterError(
            f"n_candidates={reranked} is not below the base's {len(base)} rows; ask for fewer"
        )
    for name, value in (("recall", recall), ("ndcg", ndcg)):
        if value is not None and not 0 < value < 1:
            raise ParameterError(f"{name}={value!r} must be a share between 0 and 1, such as .95")
    specs, sizes = _wanted(codecs, n_bytes, base.shape[1])
    rounds, failed = successive_halving(
        base,
        validation,
        specs,
        sizes,
        metric=metric,
        k=k,
        n_candidates=reranked,
        column=column,
        seed=seed,
        seconds=seconds,
        labels=labels,
        fit_queries=learned_from,
    )
    trials = list({trial.spec: trial for trial in rounds}.values())
    chosen, reached = _chosen(trials, n_bytes, recall if ndcg is None else ndcg, column)
    others = [
        trial
        for trial in trials
        if trial is not chosen and trial.codec.bytes_per_vector <= chosen.codec.bytes_per_vector
    ]
    runner_up = max(others, key=lambda trial: (trial.rung, trial.quality(column)), default=None)
    against = next(
        (t for t in rounds if runner_up and (t.spec, t.rung) == (chosen.spec, runner_up.rung)), None
    )
    return Plan(
        metric,
        k,
        reranked,
        column,
        storage,
        base.shape[1],
        len(validation),
        tuple(trials),
        tuple(failed),
        chosen,
        runner_up,
        against,
        reached,
    )


def _shared_row(rows: Float32, others: Float32) -> int | None:
    """Return the number of the first row that is among others too, or None."""
    known = {row.tobytes() for row in np.ascontiguousarray(others)}
    return next((i for i, row in enumerate(np.ascontiguousarray(rows)) if row.tobytes() in known), None)


def _neighbor_column(k: int, n_candidates: int) -> str:
    """Return the column of the neighbours that codes and candidates find."""
    return f"{k}-recall@{n_candidates}" if n_candidates > k else f"recall@{k}"


def _wanted(
    codecs: Sequence[str | CodecSpec] | None, n_bytes: int | None, d: int
) -> tuple[list[CodecSpec], list[int]]:
    """Return the codecs to try, and the number of bytes that each competes in."""
    if n_bytes is not None:
        check_positive("bytes", n_bytes)
    if codecs is not None:
        specs = [parse_spec(spec) if isinstance(spec, str) else spec for spec in codecs]
        # The smallest that keeps enough may not be among the best, so that none may be left behind for it.
        return specs, [0] * len(specs) if n_bytes is not None else list(range(len(specs)))
    wanted = ladder(d) if n_bytes is None else [n_bytes]
    pairs = [(spec, size) for size in wanted for spec in candidates(size, d)]
    pairs = list({spec: (spec, size) for spec, size in reversed(pairs)}.values())[::-1]
    return [spec for spec, _ in pairs], [size for _, size in pairs]


def _chosen(
    trials: Sequence[Trial], n_bytes: int | None, share: float | None, column: str
) -> tuple[Trial, bool | None]:
    """Return the recommended trial, and whether the share to keep is reached."""
    last = max(trial.rung for trial in trials)
    final = [trial for trial in trials if trial.rung == last]
    if n_bytes is not None:
        final = [trial for trial in final if trial.codec.bytes_per_vector <= n_bytes] or final
    if share is None:
        return max(final, key=lambda trial: trial.quality(column)), None
    enough = [trial for trial in final if trial.evaluation.kept(column).low >= share]
    if not enough:
        return max(final, key=lambda trial: trial.quality(column)), False
    return min(enough, key=lambda t: (t.codec.bytes_per_vector, -t.quality(column))), True
