"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nearfold._utils import files
from nearfold._utils.files import replacing
from nearfold.errors import FileError


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
    code = (
        "import os, sys\n"
        "from nearfold._utils.files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.bin")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(tmp_path / "b.bin") as file:
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin"]


def test_what_others_left_stays_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / ".a.bin.0123.part").write_bytes(b"a film")
    folder = tmp_path / ".a.bin.0123456789abcdef.part"
    folder.mkdir()
    (folder / "content").write_bytes(b"mine")
    (folder / "owner").write_bytes(b"me")
    with replacing(tmp_path / "a.bin") as file:
        file.write(b"whole")
    files.remove_beside(tmp_path)
    assert (tmp_path / ".a.bin.0123.part").read_bytes() == b"a film"
    assert sorted(path.name for path in folder.iterdir()) == ["content", "owner"]


def test_a_writer_at_work_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.bin") as file:
        file.write(b"half, ")
        files.remove_beside(tmp_path)
        file.write(b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"half, whole"


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_a_file_written_again_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    for mode in (0o600, 0o640, 0o755):
        target.write_bytes(b"old")
        target.chmod(mode)
        with replacing(target) as file:
            file.write(b"new")
        assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_pipes_and_devices_are_neither_read_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for odd, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(FileError, match=f"is {kind}"):
            files.open_regular(odd)
        with pytest.raises(FileError, match=f"is {kind}"):
            files.check_regular(odd)
        with pytest.raises(FileError, match=f"is {kind}"), replacing(odd):
            pass


def test_inputs_are_kept_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.npy").write_bytes(b"input")
    (tmp_path / "x.npy").write_bytes(b"input")
    (tmp_path / "link.npy").symlink_to(tmp_path / "x.npy")
    (tmp_path / "twin.npy").hardlink_to(tmp_path / "x.npy")
    with files.keeping([tmp_path / "x.npy", tmp_path / "in"]):
        for name in ("x.npy", "link.npy", "twin.npy", "in/a.npy", "in/../x.npy"):
            with pytest.raises(FileError, match="would be lost"), replacing(tmp_path / name) as file:
                file.write(b"lost")
        with replacing(tmp_path / "y.npy") as file:
            file.write(b"output")
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "in" / "a.npy").read_bytes() == b"input"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match=r"a\.bin: can't be written: No such file"),
        replacing(tmp_path / "no" / "a.bin"),
    ):
        pass
