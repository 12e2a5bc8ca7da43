"""Files are written whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nearfold import files
from nearfold.errors import FileError
from nearfold.files import replacing


def test_a_failure_inside_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def failing() -> None:
        with replacing(target) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_an_interrupt_while_the_file_beside_opens_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file exists, and its opener has not returned yet."""

    def interrupted(handle: int, *, wait: bool) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_lock", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    (tmp_path / ".a.bin.0123.part").write_bytes(b"half")
    with replacing(tmp_path / "a.bin") as file:
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match=r"a\.bin: can't be written: No such file"),
        replacing(tmp_path / "no" / "a.bin"),
    ):
        pass
