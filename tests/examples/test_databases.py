"""Every database example runs against the real engine, and keeps what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("with_*.py"))


@pytest.mark.databases
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem.removeprefix("with_"))
def test_two_stages_keep_98_percent_in_40_percent_of_the_bytes(example: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    rows = re.findall(r"│ (\S.*?)\s+│\s+([\d.]+) │\s+([\d,]+) │\s+(\d+)% │", ended.stdout)
    (full, _, before, _), (folded, recall, after, _) = rows
    assert (full, folded) == ("full vectors", "folded, re-ranked")
    assert float(recall) >= 0.98
    assert int(after.replace(",", "")) <= 0.4 * int(before.replace(",", ""))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 10
