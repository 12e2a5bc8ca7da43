"""Results that are known: what a seed learns, and what is measured of it, changes only where that is meant.

`python -m tests.test_pinned` writes the results anew; the change log says why they changed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearfold import NearFold, compare, evaluate, inspect, load_sample, sweep
from nearfold.evaluation.drift import drift, held_out_drift_stats, with_drift_stats
from nearfold.evaluation.recall import paired_difference
from nearfold.evaluation.split import hold_out
from nearfold.folds.fold import Fold
from nearfold.methods.rae.regularizers import REGULARIZERS
from nearfold.methods.registry import METHODS, make

PINNED = Path(__file__).with_name("pinned.json")

# Rounding differs between processors and thread counts; training makes it larger.
TOLERANCE = 2e-3

# What a clock says, and the versions that computed it.
_CHANGING = ("seconds", "per_second", "version", "us")


def vectors(rows: slice) -> np.ndarray:
    return load_sample().vectors[rows, :24].astype(np.float32)


def shown(fold: Fold) -> dict[str, Any]:
    """Return a fold's facts, and inner products of folded vectors, which no sign or rotation changes."""
    folded = fold.transform(vectors(slice(400, 405))).astype(float)
    return {"products": (folded @ folded.T).tolist(), "facts": dict(fold.facts)}


def learned(name: str, **parameters: Any) -> dict[str, Any]:
    """Return what a method learns."""
    return shown(make(name, 5, random_state=0, **parameters).fit(vectors(slice(400))).encoder_)


def asked(metric: str) -> dict[str, Any]:
    """Return what is learned for queries of another kind."""
    queries = 0.7 * vectors(slice(1000, 1200))[:, ::-1] + 0.1
    estimator = NearFold(5, metric=metric, n_steps=60, n_neighbors=7)
    return shown(estimator.fit(vectors(slice(400)), queries=queries).encoder_)


def drifted(metric: str) -> dict[str, Any]:
    estimator = make("nearfold", 5, random_state=0, metric=metric, n_steps=30)
    rows = vectors(slice(3000))
    stats = held_out_drift_stats(estimator, rows)
    fold = with_drift_stats(estimator.fit(rows).encoder_, stats)
    found = drift(fold, vectors(slice(3000, 4000)) + 0.02)
    return {"baseline": [each._asdict() for each in stats], "current": found.current._asdict()}


def compared() -> dict[str, Any]:
    queries = vectors(slice(500, 560))
    methods, metrics = ["pca", "nearfold"], ["cosine", "l2", "ip"]
    return compare(
        vectors(slice(500)), queries=queries, n_components=[4, "50%"], methods=methods, metrics=metrics
    ).as_dict()


def evaluated(metric: str) -> dict[str, Any]:
    """Return what is measured of a fold on rows held out, of arrays and by reading on."""
    fold = make("pca", 6, metric=metric).fit(vectors(slice(500))).encoder_
    base, queries = hold_out(vectors(slice(900)), seed=3)
    other = make("truncation", 6).fit(base).encoder_
    found = evaluate(fold, base, queries, k=[1, 7], n_candidates=[20, 90])
    against = evaluate(other, base, queries, metric=metric, k=[1, 7], n_candidates=[20, 90])
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", vectors(slice(900)))
        read = evaluate(fold, f"{folder}/x.npy", n_queries=80, seed=4)
    return {
        "found": found.as_dict(),
        "read": read.as_dict(),
        "difference": paired_difference(found, against, "recall@7")._asdict(),
    }


def inspected(metric: str) -> dict[str, Any]:
    fold = make("pca", 6, metric=metric).fit(vectors(slice(500))).encoder_
    return inspect(fold, vectors(slice(500)), vectors(slice(500, 560))).as_dict()


def swept() -> dict[str, Any]:
    return sweep(vectors(slice(600)), n_components=4, methods=["rae-exact"]).as_dict()


def cases() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for name, method in METHODS.items():
        if method.needs:  # whose results are another library's
            continue
        yield name, partial(learned, name)
        if make(name, 5).learns_metric:
            yield f"{name} l2", partial(learned, name, metric="l2")
            yield f"{name} ip", partial(learned, name, metric="ip")
    yield "rae auto", partial(learned, "rae", weight_decay="auto", n_steps=60)
    yield "rae bias", partial(learned, "rae", bias=True, weight_decay=1e-3, n_steps=60)
    for regularizer in REGULARIZERS:
        penalty = {"regularizer": regularizer, "weight_decay": 2e-4}
        yield f"rae {regularizer}", partial(learned, "rae", **penalty, n_steps=60)
        yield f"rae-exact {regularizer}", partial(learned, "rae-exact", **penalty)
    yield "nearfold with few anchors", partial(learned, "nearfold", n_anchors=90)
    for metric in ("cosine", "l2", "ip"):
        yield f"drift {metric}", partial(drifted, metric)
        yield f"nearfold for queries {metric}", partial(asked, metric)
        yield f"inspect {metric}", partial(inspected, metric)
        yield f"evaluate {metric}", partial(evaluated, metric)
    yield "compare", compared
    yield "sweep", swept


CASES = dict(cases())


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each number, string and null below a value, with where it is."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        plain = value.item() if isinstance(value, np.generic) else value
        yield path, float(f"{plain:.7g}") if isinstance(plain, float) else plain
    for key, inner in items:
        if not str(key).endswith(_CHANGING):
            yield from leaves(inner, f"{path}/{key}")


@pytest.mark.filterwarnings("ignore::nearfold.NearfoldWarning")
@pytest.mark.parametrize("name", CASES)
def test_results_are_what_they_were(name: str) -> None:
    wanted = json.loads(PINNED.read_text(encoding="utf-8"))[name]
    found = dict(leaves(CASES[name]()))
    assert found.keys() == wanted.keys()
    numbers = [key for key, value in wanted.items() if isinstance(value, float)]
    least = TOLERANCE * max((abs(wanted[key]) for key in numbers if "/products/" in key), default=5e-4)
    for key, value in wanted.items():
        if isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=TOLERANCE, abs=least, nan_ok=True), key
        else:
            assert found[key] == value, key


if __name__ == "__main__":
    results = {name: dict(leaves(case())) for name, case in CASES.items()}
    PINNED.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
