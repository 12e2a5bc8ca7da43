"""What a scan holds is never charged beyond the data, and anchors follow the budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearfold import NearFold, config_context
from nearfold._utils.memory import memory_limit
from nearfold._utils.threads import blas_threads
from nearfold.errors import NearfoldWarning
from nearfold.methods.nearfold import default_anchors
from nearfold.scan.budget import affordable_anchors, scan_bytes

WIDTHS = (384, 768, 1536, 3072, 4096)


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("rows", [4_000, 8_000, 12_000, 50_000, 200_000, 1_000_000])
def test_every_size_fits_four_gigabytes(rows: int, d: int) -> None:
    wanted = default_anchors(rows)
    found = affordable_anchors(rows, d, wanted, 65, 2, 4 * 10**9)
    assert found >= 256
    assert scan_bytes(rows, d, found, 65, 2) <= 4 * 10**9


@pytest.mark.parametrize("d", WIDTHS)
def test_neighborhoods_are_charged_as_the_data_at_most(d: int) -> None:
    """Rows carried along and rows gathered: twice the rows that neighbourhoods are of, never more."""
    rows, k = 4_000, 65
    squares = 8 * d * d * 6
    for anchors in (10, 64, 280, 1_000, 3_000, 50_000):
        named = min(anchors, rows)
        charged = scan_bytes(rows, d, anchors, k, 1) - scan_bytes(rows, d, 0, 0, 1)
        lists, blocks = 40 * named * k, 2 * min(named, 24) * (k + 1) * d * 4
        held = min(rows, 2 * named * k) + min(rows, named * k)
        assert held <= 2 * min(rows, 2 * named * k)
        # What is drawn is held twice before there are neighbourhoods: as it is in the file, and prepared.
        drawn = (rows + 2 * named) * d * 4
        assert charged <= max(drawn, (held + named) * d * 4 + lists + blocks)
        assert charged + squares >= min(rows, named * k) * d * 4


def test_fewer_anchors_are_said(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((2_000, 64)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    memory = scan_bytes(2_000, 64, 100, 65, blas_threads())
    told = pytest.warns(NearfoldWarning, match=r"neighbourhoods of \d+ anchors, not of 2000|not of 3000")
    with config_context(memory=memory), told:
        NearFold(8, n_steps=2).fit(tmp_path / "x.npy")


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    (tmp_path / "groups" / "a" / "b" / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path / "groups", own) > 10**8
    (tmp_path / "groups" / "a" / "memory.max").write_text("100000000\n")
    assert memory_limit(tmp_path / "groups", own) == 10**8
