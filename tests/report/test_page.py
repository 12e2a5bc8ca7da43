from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from nearfold import NearFold, compare, inspect, plan, sweep
from nearfold.errors import FileError
from nearfold.report.charts import distributions, dots, lines, scatter
from nearfold.report.comparison import comparison_page
from nearfold.report.inspection import inspection_page
from nearfold.report.page import Cell, Chart, Page, Table, Text
from nearfold.report.plan import plan_page
from nearfold.report.provenance import fingerprint, provenance
from nearfold.report.sweep import sweep_page
from nearfold.scan.exact import search

EVIL = "<script>alert('x')</script>&\"'</"


def test_nothing_in_the_data_can_become_markup() -> None:
    page = Page(EVIL, EVIL, EVIL, {EVIL: EVIL}, EVIL)
    page.add(EVIL, Text(EVIL), Table([EVIL], [[Cell(EVIL, EVIL, EVIL)]], caption=EVIL))
    page.add("chart", Chart(lines({EVIL: ([1, 2], [3, 4])}, EVIL, EVIL), EVIL))
    html = page.render()
    assert "<script>alert" not in html
    (figure,) = re.findall(r'<script type="application/json" id="part-1-0">(.*?)</script>', html)
    assert json.loads(figure)["data"][0]["name"] == EVIL


def test_cells_sort_by_value() -> None:
    assert 'data-value="0.5"' in Cell(".500", 0.5).html()
    assert 'data-value=""' in Cell("", float("nan")).html()
    assert 'data-value="Infinity"' in Cell("inf", float("inf")).html()


def test_figures_hold_no_numbers_that_json_lacks() -> None:
    gaps = [1.0, float("nan"), float("inf")]
    for figure in (
        lines({"a": (gaps, gaps)}, "x", "y", log_x=True, log_y=True),
        dots(["a", "b", "c"], {"s": (gaps, gaps, gaps)}, "x"),
        scatter(["a", "b", "c"], gaps, gaps, "x", "y"),
        distributions({"a": (gaps, gaps)}, (0.1, float("inf"))),
        distributions({}, (0.1, 1.0)),
    ):
        json.dumps(figure, allow_nan=False)


def test_fingerprints_tell_data_apart(sample: np.ndarray) -> None:
    assert fingerprint(sample) == fingerprint(sample.copy())
    changed = sample.copy()
    changed[3, 3] += 1
    assert len({fingerprint(X) for X in (sample, changed, sample[:100], sample.reshape(-1, 192))}) == 4


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="can't be written"):
        Page("t", "s", "m", {}, "c").write(tmp_path / "no" / "page.html")
    assert not list(tmp_path.iterdir())


def pages(sample: np.ndarray) -> dict[str, Page]:
    """Return one page of each kind, made from real vectors."""
    base, queries = sample[:500], sample[500:560]
    facts = provenance(base, queries)
    methods = ["pca", "rae-exact", "mds", "isomap"]
    found = search(base, queries, 5, "cosine").tolist()
    qrels = {q: {row: grade for grade, row in enumerate(rows)} for q, rows in enumerate(found)}
    compared = compare(
        base,
        queries=queries,
        n_components=[8, 16],
        methods=methods,
        metrics=["cosine", "l2"],
        qrels=qrels,
    )
    swept = sweep(base, queries=queries, n_components=8, methods=["rae-exact"])
    seen = inspect(NearFold(16, n_steps=20).fit(base).encoder_, base, queries)
    codecs = ["PCA8,SQ8", "PCA9,SQ8", "PQ7"]
    planned = plan(base, recall=0.999, codecs=codecs, queries=queries, qrels=qrels)
    return {
        "plan": plan_page(planned, "A plan", facts, "nearfold plan x.npy"),
        "compare": comparison_page(compared, "A comparison", facts, "nearfold compare x.npy"),
        "sweep": sweep_page(swept, facts, "nearfold sweep x.npy"),
        "inspect": inspection_page(seen, "fold.safetensors", facts, "nearfold inspect f x.npy"),
    }


def test_every_page_says_how_it_was_measured(sample: np.ndarray) -> None:
    made = pages(sample)
    for name, page in made.items():
        html = page.render()
        for said in ("held out", "95% confidence", "fingerprint", "numpy", "cores", page.command):
            assert said in html
        assert html.count("<table") >= 1
        assert html.count('class="chart"') >= (1 if name == "plan" else 2)
        # Whole in itself: nothing names another place to load from.
        assert not re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=", html.split("<script>")[0])
        # Neighbours and labels side by side, where there are labels.
        assert ('class="beside"' in html) == (name in ("compare", "plan"))
        assert ("nDCG@10 kept" in html) == (name in ("compare", "plan"))
    assert "full vectors" in made["compare"].render()
    html = made["plan"].render()
    for said in (
        "No codec reaches the wanted share",
        "Not tried",
        "PQ7: 7 bytes don&#x27;t divide 384",
    ):
        assert said in html
