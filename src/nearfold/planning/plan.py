"""From trials to a recommendation: the Pareto front, the choice, and what it costs to be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy.typing as npt

from nearfold._utils.arrays import Metric, as_vectors, check_metric, check_positive
from nearfold.codecs.codec import Codec
from nearfold.codecs.spec import CodecSpec, parse_spec
from nearfold.errors import ParameterError
from nearfold.evaluation.intervals import Estimate, estimate, paired_estimate
from nearfold.evaluation.split import base_and_queries, check_numbers
from nearfold.planning.candidates import candidates, ladder
from nearfold.planning.halving import Trial, successive_halving

__all__ = ["PLACES", "Place", "Plan", "plan"]

Place: TypeAlias = Literal["memory", "disk", "nowhere"]
"""Where full vectors live: beside the codes, where reading some costs time, or nowhere any more."""

PLACES: tuple[str, ...] = get_args(Place)


@dataclass(frozen=True, eq=False)
class Plan:
    """What was tried, and what is recommended.

    Parameters
    ----------
    metric, k, depth
        What was judged.
    column
        What decided: "P@k", or "k-in-R" where R candidates are put in order by full vectors.
    full
        Where full vectors live.
    n_features
        d.
    queries
        How many validation queries judged.
    trials
        The last trial of each codec; those of the last round saw all rows.
    failed
        Codecs that could not be fitted, with the reason.
    chosen
        The recommended trial.
    runner_up
        The other codec of at most as many bytes that got farthest, the best of those; None where there is
        none. It is compared with the chosen one in the last round that both were in.
    against
        The chosen one's trial of the runner-up's last round, to compare the two.
    reached
        Whether a recall that was asked for is reached (its interval's lower end); None where none was.
    """

    metric: Metric
    k: int
    depth: int
    column: str
    full: str
    n_features: int
    queries: int
    trials: tuple[Trial, ...]
    failed: tuple[tuple[CodecSpec, str], ...]
    chosen: Trial
    runner_up: Trial | None
    against: Trial | None
    reached: bool | None

    @property
    def codec(self) -> Codec:
        """The recommended codec, learned from all rows that didn't judge."""
        return self.chosen.codec

    def kept(self, trial: Trial) -> Estimate:
        """Return what a trial keeps, in the column that decided."""
        return estimate(trial.judgement.per_query[self.column][:, None])[0]

    def front(self) -> list[Trial]:
        """Return the trials of the last round that no other beats in bytes and in what is kept."""
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
        """Return runner-up minus chosen, paired by query: what is lost if the runner-up is the better one."""
        if self.runner_up is None or self.against is None:
            return None
        return _difference(self.runner_up, self.against, self.column)

    def as_dict(self) -> dict[str, Any]:
        """Return everything measured as JSON holds it."""
        error = self.cost_of_error()
        front = set(map(id, self.front()))
        return {
            "metric": self.metric,
            "column": self.column,
            "depth": self.depth,
            "full_vectors": self.full,
            "queries": self.queries,
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
                    "fit_seconds": trial.fit_seconds,
                    "encode_seconds": trial.encode_seconds,
                }
                for trial in self.trials
            ],
            "failed": [{"codec": str(spec), "reason": reason} for spec, reason in self.failed],
        }


def plan(
    X: npt.ArrayLike,
    *,
    n_bytes: int | None = None,
    recall: float | None = None,
    metric: Metric = "cosine",
    k: int = 10,
    depth: int | None = None,
    full: str = "disk",
    queries: npt.ArrayLike | None = None,
    n_queries: int | None = None,
    codecs: Sequence[str | CodecSpec] | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> Plan:
    """Find the codec that keeps most in so many bytes, or the fewest bytes that keep enough.

    Every codec is judged on queries that it hasn't seen. Choosing the best of many on the same queries
    flatters the choice a little: judge the result on other queries before you publish a figure.

    Parameters
    ----------
    X
        The base, shape (n, d), any real dtype.
    n_bytes
        The bytes a vector that there are. Give this or `recall`.
    recall
        The share of the true top k to be kept, in (0, 1).
    metric
        What vectors are searched with.
    k
        Neighbours that count.
    depth
        Candidates that full vectors put in order; None for 5 k where there are full vectors, else none.
    full
        "memory", "disk" or "nowhere".
    queries
        Shape (q, d), to judge with; None to hold rows of X out.
    n_queries
        How many to hold out; None for a tenth, at most 1,000.
    codecs
        What to try, in place of all that fit.
    seconds
        Begin no further fit after so long.
    seed
        Of all draws.

    Raises
    ------
    ParameterError
        Both or none of `n_bytes` and `recall` are given, or a parameter is out of range.
    DataError
        X is not a finite table of vectors, or is too small.
    """
    if (n_bytes is None) == (recall is None):
        raise ParameterError("give either bytes or recall: how small vectors must be, or how much to keep")
    if full not in PLACES:
        raise ParameterError(f"full={full!r} is unknown; use one of {', '.join(PLACES)}")
    if full == "nowhere" and depth:
        raise ParameterError("depth needs full vectors; without any, codes alone decide")
    check_positive("k", k)
    reranked = (0 if full == "nowhere" else 5 * k) if depth is None else depth
    check_positive("depth", reranked, zero=True)
    vectors = as_vectors(X, min_rows=4)
    given = None if queries is None else as_vectors(queries, "queries")
    # Before a split numbers rows in its own way.
    check_numbers(vectors, check_metric(metric), "X")
    check_numbers(given, check_metric(metric), "queries")
    base, asked = base_and_queries(vectors, given, n_queries, seed)
    column = f"{k}-in-{reranked}" if reranked > k else f"P@{k}"
    if reranked >= len(base):
        raise ParameterError(f"depth={reranked} is not below the base's {len(base)} rows; ask for fewer")
    specs, sizes = _wanted(codecs, n_bytes, recall, base.shape[1])
    rounds, failed = successive_halving(
        base,
        asked,
        specs,
        sizes,
        metric=check_metric(metric),
        k=k,
        depth=reranked,
        column=column,
        seed=seed,
        seconds=seconds,
    )
    trials = list({trial.spec: trial for trial in rounds}.values())
    chosen, reached = _chosen(trials, n_bytes, recall, column)
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
        full,
        base.shape[1],
        len(asked),
        tuple(trials),
        tuple(failed),
        chosen,
        runner_up,
        against,
        reached,
    )


def _wanted(
    codecs: Sequence[str | CodecSpec] | None, n_bytes: int | None, recall: float | None, d: int
) -> tuple[list[CodecSpec], list[int]]:
    """Return codecs to try, and the size that each competes in."""
    if n_bytes is not None:
        check_positive("bytes", n_bytes)
    if recall is not None and not 0 < recall < 1:
        raise ParameterError(f"recall={recall!r} must be a share between 0 and 1, such as .95")
    if codecs is not None:
        specs = [parse_spec(spec) if isinstance(spec, str) else spec for spec in codecs]
        return specs, [0] * len(specs)
    wanted = ladder(d) if n_bytes is None else [n_bytes]
    pairs = [(spec, size) for size in wanted for spec in candidates(size, d)]
    pairs = list({spec: (spec, size) for spec, size in reversed(pairs)}.values())[::-1]
    return [spec for spec, _ in pairs], [size for _, size in pairs]


def _chosen(
    trials: Sequence[Trial], n_bytes: int | None, recall: float | None, column: str
) -> tuple[Trial, bool | None]:
    """Return the recommended trial, and whether a recall asked for is reached."""
    last = max(trial.rung for trial in trials)
    final = [trial for trial in trials if trial.rung == last]
    if n_bytes is not None:
        final = [trial for trial in final if trial.codec.bytes_per_vector <= n_bytes] or final
    if recall is None:
        return max(final, key=lambda trial: trial.quality(column)), None
    enough = [
        trial for trial in final if estimate(trial.judgement.per_query[column][:, None])[0].low >= recall
    ]
    if not enough:
        return max(final, key=lambda trial: trial.quality(column)), False
    return min(enough, key=lambda t: (t.codec.bytes_per_vector, -t.quality(column))), True


def _difference(first: Trial, second: Trial, column: str) -> Estimate:
    return paired_estimate(first.judgement.per_query[column], second.judgement.per_query[column])
