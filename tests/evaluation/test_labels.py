"""Labels: the measures against ones written out here, ids, and what every command of Python reports."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfold as nf
from nearfold.errors import DataError, FileError, MissingExtraError, ParameterError
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.labels import LabelledQueries, ranked
from nearfold.evaluation.qrels import Labels, labels_of

Vectors = npt.NDArray[np.float32]
N, Q = 400, 30


@pytest.fixture(name="base")
def base_(sample: Vectors) -> Vectors:
    return sample[:N]


@pytest.fixture(name="queries")
def queries_(sample: Vectors) -> Vectors:
    return sample[N : N + Q]


@pytest.fixture(name="grades")
def grades_(base: Vectors, queries: Vectors, rng: np.random.Generator) -> dict[int, dict[int, int]]:
    """Return grades of documents that are about as near as searches find; query 3 has none that counts."""
    near = np.argsort(-(queries @ base.T), axis=1)[:, :40]
    picked = [rng.choice(row, 6, replace=False).tolist() for row in near]
    found = {q: dict(zip(picked[q], (3, 2, 1, 1, 0, -1), strict=True)) for q in range(Q)}
    found[3] = {1: 0, 2: -1}
    return found


def measures(grades: dict[int, int], ranking: list[int], k: int) -> dict[str, float]:
    """Return the measures of one query as their definitions say."""
    gains = np.array([max(grades.get(row, 0), 0) for row in ranking], float)
    ideal = np.sort([max(g, 0) for g in grades.values()])[::-1].astype(float)
    discounts = 1 / np.log2(np.arange(2, 2 + max(len(ranking), len(ideal))))
    hits = gains > 0
    relevant = sum(g > 0 for g in grades.values())
    first = next((1 / rank for rank, hit in enumerate(hits[:k], 1) if hit), 0.0)
    precisions = hits.cumsum() / np.arange(1, len(hits) + 1)
    return {
        f"nDCG@{k}": (gains[:k] @ discounts[: len(gains[:k])]) / (ideal[:k] @ discounts[: len(ideal[:k])]),
        f"R@{k}": hits[:k].sum() / relevant,
        f"MRR@{k}": first,
        "MAP@100": precisions[:100][hits[:100]].sum() / relevant,
    }


def exact_order(base: Vectors, queries: Vectors) -> npt.NDArray[np.int64]:
    """Return all rows by falling cosine, equal ones by row number."""
    x, y = (v.astype(float) / np.linalg.norm(v.astype(float), axis=1, keepdims=True) for v in (base, queries))
    order: npt.NDArray[np.int64] = np.argsort(-np.round(y @ x.T, 6), axis=1, kind="stable")
    return order


def test_measures_are_those_written_out(
    base: Vectors, queries: Vectors, grades: dict[int, dict[int, int]]
) -> None:
    fold = nf.PCA(24).fit(base).encoder_
    result = nf.evaluate(fold, base, queries, k=(1, 10), qrels=grades)
    labels = result.labels
    assert labels is not None
    assert labels.query_rows.tolist() == [q for q in range(Q) if q != 3]
    assert labels.n_judged == Q - 1
    orders = {
        "full_per_query": exact_order(base, queries),
        "per_query": exact_order(fold.transform(base), fold.transform(queries)),
    }
    for name, order in orders.items():
        values = getattr(labels, name)
        assert list(values) == ["nDCG@1", "nDCG@10", "R@1", "R@10", "MRR@1", "MRR@10", "MAP@100"]
        for k in (1, 10):
            for place, q in enumerate(labels.query_rows.tolist()):
                for column, wanted in measures(grades[q], order[q, :100].tolist(), k).items():
                    assert values[column][place] == pytest.approx(wanted, abs=1e-12), (name, column, q)
    for column, kept in labels.kept.items():
        assert labels.values[column].mean == pytest.approx(labels.per_query[column].mean())
        assert labels.full[column].mean == pytest.approx(labels.full_per_query[column].mean())
        assert kept.mean == pytest.approx(labels.values[column].mean / labels.full[column].mean)
        assert kept.low <= kept.mean <= kept.high
    # The share kept is not that of neighbours, and neighbours are as without labels.
    assert result.recall == nf.evaluate(fold, base, queries, k=(1, 10)).recall


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.dictionaries(st.integers(0, 19), st.integers(-1, 4), min_size=1), min_size=1, max_size=4),
    st.integers(1, 30),
    st.randoms(use_true_random=False),
)
def test_any_ranking_and_any_grades(graded: list[dict[int, int]], k: int, random: Any) -> None:
    graded = [own for own in graded if max(own.values()) > 0] or [{0: 1}]
    labels = labels_of(dict(enumerate(graded)), None, np.empty(0), 20, len(graded))
    rankings = [random.sample(range(20), 20) for _ in graded]
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    truth = GroundTruth.compute(rows, rows[: len(graded)], 20, "l2")
    found = LabelledQueries.of(labels, truth, [k]).result(np.array(rankings)).per_query
    for place, (own, ranking) in enumerate(zip(graded, rankings, strict=True)):
        for column, wanted in measures(own, ranking, k).items():
            assert found[column][place] == pytest.approx(wanted, abs=1e-12)


def test_a_fold_that_keeps_all_keeps_all_labels(
    base: Vectors, queries: Vectors, grades: dict[int, dict[int, int]]
) -> None:
    labels = nf.evaluate(
        nf.Encoder(np.eye(base.shape[1], dtype=np.float32)), base, queries, qrels=grades
    ).labels
    assert labels is not None
    assert {column: kept.mean for column, kept in labels.kept.items()} == dict.fromkeys(labels.values, 1.0)


def test_copies_are_ranked_by_row_number() -> None:
    ids = np.array([[5, 2, 9, 1], [4, 3, 2, 1]])
    eps = float(np.finfo(np.float32).eps)
    scores = np.array([[0.5, 0.9 - eps, 0.5 + eps, 0.9], [-4.0, -3.0, -2.0, -1.0]])
    assert ranked(ids, scores).tolist() == [[1, 2, 5, 9], [1, 2, 3, 4]]


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_copies_far_apart_are_too(sample: Vectors, metric: Any) -> None:
    base = np.tile(sample[:60], (5, 1))
    queries = sample[60:70]
    order = np.argsort([np.linalg.norm(sample[:60] - q, axis=1) for q in queries], axis=1)
    grades = {q: {int(order[q, 0]) + 60 * 3: 1} for q in range(10)}
    fold = nf.Encoder(np.eye(sample.shape[1], dtype=np.float32), metric=metric)
    labels = nf.evaluate(fold, base, queries, qrels=grades).labels
    assert labels is not None
    # The fourth of five copies of the nearest row.
    assert labels.per_query["MRR@10"].tolist() == [0.25] * 10
    assert labels.full_per_query["MRR@10"].tolist() == [0.25] * 10


def test_ids_are_columns_or_arrays(
    base: Vectors, queries: Vectors, grades: dict[int, dict[int, int]], tmp_path: Path
) -> None:
    fold = nf.PCA(24).fit(base).encoder_
    documents, asked = [f"d{row}" for row in range(N)], [1000 + row for row in range(Q)]
    pq.write_table(pa.table({"_id": documents, "v": list(base)}), tmp_path / "base.parquet")
    pq.write_table(pa.table({"qid": asked, "v": list(queries)}), tmp_path / "queries.parquet")
    named = {1000 + q: {f"d{row}": g for row, g in own.items()} for q, own in grades.items()}
    lines = [f"{q} 0 {d} {g}\n" for q, own in named.items() for d, g in own.items()]
    (tmp_path / "qrels.txt").write_text("".join(lines))
    wanted = nf.evaluate(fold, base, queries, qrels=grades).labels
    arrays = nf.Qrels(named, document_ids=np.array(documents), query_ids=pa.array(asked))
    columns = nf.Qrels(tmp_path / "qrels.txt", document_ids="_id", query_ids="qid")
    assert "labels of 30 queries" in repr(columns)
    files = tmp_path / "base.parquet", tmp_path / "queries.parquet"
    for found in (
        nf.evaluate(fold, base, queries, qrels=arrays),
        nf.evaluate(fold, *files, qrels=columns),
        nf.compare(*files, methods=["pca"], n_components=[24], qrels=columns).entries[0].evaluation,
    ):
        assert found.labels is not None
        assert wanted is not None
        assert found.labels.as_dict() == wanted.as_dict()
    with pytest.raises(FileError, match=r"queries\.parquet: has no column '_id' of ids.*it has qid"):
        nf.evaluate(fold, *files, qrels=nf.Qrels(named, document_ids="_id", query_ids="_id"))


@pytest.mark.parametrize(
    ("qrels", "said"),
    [
        ({0: {N: 1}}, f"label document '{N}', which is not among the documents: ids are row numbers"),
        ({0: {"07": 1}}, "label document '07'"),
        ({Q: {0: 1}, "x": {0: 1}}, rf"label query '{Q}' \(and 1 more\)"),
        ({0: {0: 0}}, "no relevant document"),
        (nf.Qrels({0: {"a": 1}}, document_ids=["b"] * N), "'a', which is .*ids such as 'b', 'b', 'b'"),
        (nf.Qrels({0: {"b": 1}}, document_ids=["b"] * N), "has 'b' twice, at rows 0 and 1"),
        (nf.Qrels({0: {0: 1}}, query_ids=["0"]), f"query_ids has 1 ids for {Q} queries"),
    ],
)
def test_labels_of_nothing_are_named(base: Vectors, queries: Vectors, qrels: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        nf.evaluate(nf.PCA(8).fit(base), base, queries, qrels=qrels)


def test_labels_need_queries_and_all_rows(base: Vectors, queries: Vectors, tmp_path: Path) -> None:
    for deed in (
        lambda: nf.evaluate(nf.PCA(8).fit(base), base, qrels={0: {0: 1}}),
        lambda: nf.compare(base, qrels={0: {0: 1}}),
        lambda: nf.sweep(base, qrels={0: {0: 1}}),
        lambda: nf.plan(base, n_bytes=8, qrels={0: {0: 1}}),
    ):
        with pytest.raises(ParameterError, match="give those queries"):
            deed()
    np.save(tmp_path / "base.npy", base)
    with (
        nf.config_context(memory=3 * 4 * base.shape[1] * 100),
        pytest.warns(nf.NearfoldWarning, match="drawn at random"),
        pytest.raises(ParameterError, match="qrels need every document, and the memory budget holds 100"),
    ):
        nf.compare(tmp_path / "base.npy", queries, methods=["pca"], qrels={0: {0: 1}})


def test_without_the_extra_its_name_is_said(
    base: Vectors, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pytrec_eval" else find(name)
    )
    with pytest.raises(MissingExtraError, match=r"qrels needs pytrec_eval.*nearfold\[labels\]"):
        nf.evaluate(nf.PCA(8).fit(base), base, queries, qrels={0: {0: 1}})


def test_seeds_are_averaged_query_by_query(
    base: Vectors, queries: Vectors, grades: dict[int, dict[int, int]]
) -> None:
    def labels(**settings: Any) -> Any:
        found = nf.compare(
            base, queries, methods=["random-gaussian"], n_components=[8], qrels=grades, **settings
        )
        return found.entries[0].evaluation.labels

    both, first, second = labels(n_seeds=2), labels(seed=0), labels(seed=1)
    for column, values in both.per_query.items():
        assert values == pytest.approx((first.per_query[column] + second.per_query[column]) / 2)
    assert both.full == first.full


def test_entries_differ_by_label_columns_too(
    base: Vectors, queries: Vectors, grades: dict[int, dict[int, int]]
) -> None:
    found = nf.compare(base, queries, methods=["pca", "truncation"], n_components=[16], qrels=grades)
    pca, truncation = found.entries
    difference = found.difference(pca, truncation, "nDCG@10")
    assert pca.evaluation.labels is not None
    assert truncation.evaluation.labels is not None
    means = [each.evaluation.labels.values["nDCG@10"].mean for each in (pca, truncation)]
    assert difference.mean == pytest.approx(means[0] - means[1])
    assert "MAP@100" in found.as_dict()["entries"][0]["labels"]
    with pytest.raises(KeyError):
        found.difference(pca, truncation, "nDCG@7")


def test_a_sweep_reports_labels_of_what_it_chose(
    base: Vectors, queries: Vectors, grades: dict[int, dict[int, int]]
) -> None:
    settings: dict[str, Any] = {"methods": ["rae-exact"], "n_components": 16, "weight_decays": [1e-6, 1e-4]}
    with_labels = nf.sweep(base, queries, qrels=grades, **settings)
    assert with_labels.chosen == nf.sweep(base, queries, **settings).chosen
    assert all(entry.evaluation.labels is not None for entry in with_labels.final.entries)


def test_labels_of_some_rows_have_their_numbers() -> None:
    labels = Labels(np.array([2]), (np.array([5, 9, 11]),), (np.array([1, 0, 2]),))
    assert labels.relevant().tolist() == [5, 11]
    among = labels.among(np.array([0, 5, 7, 11]))
    assert among.documents[0].tolist() == [1, 3]
    assert among.grades[0].tolist() == [1, 2]
