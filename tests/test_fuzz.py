"""Damaged files of every kind, some of them here, many by `python -m tests.fuzzing`."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import fuzzing_index, fuzzing_structure
from .fuzzing import TARGETS, cases

SOME = {".lance": 40, "index": 60, "columns of .arrow": 100, "columns of .parquet": 60}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_gives_an_error_of_ours(name: str, tmp_path: Path) -> None:
    wrong = [(number, said) for number, said in cases(name, range(SOME.get(name, 150)), tmp_path) if said]
    assert not wrong, wrong[0]


@pytest.mark.parametrize("name", fuzzing_structure.TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_a_sound_file_that_says_odd_things_gives_an_error_of_ours(name: str, tmp_path: Path) -> None:
    found = cases(name, range(40), tmp_path, fuzzing_structure.TARGETS)
    wrong = [(number, said) for number, said in found if said]
    assert not wrong, wrong[0]


def test_an_index_whose_parts_do_not_fit_gives_an_error_of_ours(tmp_path: Path) -> None:
    wrong = [(number, said) for number, said in fuzzing_index.cases(range(80), tmp_path) if said]
    assert not wrong, wrong[0]
