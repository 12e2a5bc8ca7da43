"""Report pages as a reader meets them: in a browser, offline, on a desk and on a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.test_page import pages

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "these tests need Chromium on the PATH"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    sample: np.ndarray = request.getfixturevalue("sample")
    for name, page in pages(sample).items():
        page.write(folder / f"{name}.html")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["compare", "sweep", "inspect", "plan"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_it_renders_in_peace(
    name: str, width: int, scheme: str, browser: Any, written: dict[str, Path]
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(written[name].as_uri())
    page.wait_for_selector(".chart .main-svg")
    charts = page.locator(".chart")
    for i in range(charts.count()):
        assert charts.nth(i).locator(".main-svg").count() > 0
    # Points are really drawn, in the space that is there.
    assert page.locator(".chart .points path, .chart .js-line, .chart .js-fill").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert asked == [written[name].as_uri()]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    page.click("#theme")
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == dark
    page.close()


def test_tables_sort_both_ways(browser: Any, written: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(written["compare"].as_uri())
    table = page.locator("table").first
    heading = table.locator("th", has_text=re.compile(r"^\s*recall@10\b"))
    column = heading.evaluate("h => h.cellIndex")

    def values() -> list[float]:
        cells = table.locator(f"tbody tr td:nth-child({column + 1})")
        found: list[str] = cells.evaluate_all("cells => cells.map(c => c.dataset.value)")
        there = [float(value) for value in found if value]
        # What has no value, as the full vectors' recall, is last whichever way rows are sorted.
        assert len(there) > 1
        assert all(found[: len(there)])
        return there

    heading.locator("button").click()
    assert values() == sorted(values(), reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").click()
    assert values() == sorted(values())
    page.close()


def test_the_policy_stops_requests(browser: Any, written: dict[str, Path]) -> None:
    """Were a page to ask for something, the browser would refuse."""
    page = browser.new_page()
    page.goto(written["sweep"].as_uri())
    refused = page.evaluate("fetch('http://127.0.0.1:9/x').then(() => 'fetched', e => String(e))")
    assert "Failed to fetch" in refused
    blocked = page.evaluate(
        """new Promise(done => {
            document.addEventListener('securitypolicyviolation', e => done(e.violatedDirective));
            const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';
        })"""
    )
    assert blocked == "img-src"
    page.close()
