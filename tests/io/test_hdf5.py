"""HDF5: datasets in groups are found, and nothing outside the file is opened."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from nearfold.errors import FileError
from nearfold.io import hdf5
from nearfold.io.held import held_rows
from nearfold.io.vectors import open_source

X = np.arange(60, dtype=np.float32).reshape(12, 5) + 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A name for a file, beside one that holds what must not be read."""
    (tmp_path / "secret.txt").write_bytes(b"0123456789" * 30)
    with h5py.File(tmp_path / "private.h5", "w") as file:
        file["train"] = X * 7
    return tmp_path / "x.h5"


def virtual(source: Path | str, name: str = "train") -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(shape=X.shape, dtype="f4")
    layout[:] = h5py.VirtualSource(str(source), name, shape=X.shape)
    return layout


def external(file: h5py.File, name: str, path: Path) -> None:
    kept = [(str(path.with_name("secret.txt")), 0, X.nbytes)]
    file.create_dataset(name, X.shape, "f4", external=kept)


@pytest.mark.parametrize("column", [None, "train", "group/inner"])
def test_nothing_outside_the_file_is_read(column: str | None, path: Path) -> None:
    elsewhere = path.with_name("private.h5")
    name = column or "train"

    def external_storage(file: h5py.File) -> None:
        external(file, name, path)

    def external_link(file: h5py.File) -> None:
        file[name] = h5py.ExternalLink(str(elsewhere), "train")

    def external_link_to_a_group(file: h5py.File) -> None:
        file["away"] = h5py.ExternalLink(str(elsewhere), "/")
        file[name] = h5py.SoftLink("/away/train")

    def relative_soft_link(file: h5py.File) -> None:
        file.create_group("group/deep")["away"] = h5py.ExternalLink(str(elsewhere), "/")
        file[name] = h5py.SoftLink("/group/./deep/away/train")

    def virtual_dataset(file: h5py.File) -> None:
        file.create_virtual_dataset(name, virtual(elsewhere))

    def virtual_dataset_of_a_virtual_one(file: h5py.File) -> None:
        file.create_virtual_dataset("middle", virtual(elsewhere))
        file.create_virtual_dataset(name, virtual(".", "middle"))

    def virtual_dataset_of_external_storage(file: h5py.File) -> None:
        external(file, "middle", path)
        file.create_virtual_dataset(name, virtual(".", "middle"))

    def virtual_dataset_by_way_of_a_link(file: h5py.File) -> None:
        file["middle"] = h5py.ExternalLink(str(elsewhere), "train")
        file.create_virtual_dataset(name, virtual(".", "middle"))

    def virtual_dataset_of_itself(file: h5py.File) -> None:
        file.create_virtual_dataset(name, virtual(".", name))

    def unknown_filter(file: h5py.File) -> None:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4, 5))
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1, 2))
        at = file.require_group(name.rpartition("/")[0] or "/")
        space = h5py.h5s.create_simple(X.shape)
        last = name.rpartition("/")[2].encode()
        h5py.h5d.create(at.id, last, h5py.h5t.IEEE_F32LE, space, dcpl=plan).write(
            h5py.h5s.ALL, h5py.h5s.ALL, X
        )

    def circle(file: h5py.File) -> None:
        file["other"] = h5py.SoftLink(f"/{name}")
        file[name] = h5py.SoftLink("/other")

    for make in [value for value in locals().values() if callable(value)]:
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(FileError, match=r"x\.h5: ") as told:
            held_rows(path, column=column)
        assert "truncated" not in str(told.value), make
        assert (
            "private" in str(told.value)
            or "open" in str(told.value)
            or "copy" in str(told.value)
            or (make in (circle, unknown_filter))
        ), (make, str(told.value))


def test_what_points_into_the_file_itself_is_read(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["group/inner"] = X
        file["soft"] = h5py.SoftLink("group/inner")
        file.create_virtual_dataset("virtual", virtual(".", "soft"))
    for name in ("soft", "virtual", "/group/inner", "group/inner"):
        np.testing.assert_array_equal(held_rows(path, column=name), X)
        np.testing.assert_array_equal(open_source(path, name).take(np.array([1, 3])), X[[1, 3]])


def test_the_only_table_is_found_in_a_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["model/embeddings"] = X
        file["model/ids"] = np.arange(12)
        file["texts"] = ["a"] * 12
        external(file, "outside", path)
    np.testing.assert_array_equal(held_rows(path), X)
    with pytest.raises(FileError, match="has no dataset 'model/x'; it has model/embeddings, model/ids, "):
        open_source(path, "model/x")
    with pytest.raises(FileError, match="'model' is a group; it has"):
        open_source(path, "model")
    with pytest.raises(FileError, match="'texts' holds texts"):
        open_source(path, "texts")
    with h5py.File(path, "a") as file:
        file["model/other"] = X
    with pytest.raises(FileError, match="several of its datasets"):
        open_source(path)


def test_records_and_empty_datasets_are_refused_by_what_they_are(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["table"] = np.zeros(3, [("id", "i4"), ("values", "f4", (5,))])
        file["nothing"] = h5py.Empty("f4")
    with pytest.raises(FileError, match="records with the fields id, values"):
        open_source(path, "table")
    with pytest.raises(FileError, match="'nothing' is empty"):
        open_source(path, "nothing")


def test_a_packed_piece_is_unpacked_once_and_is_not_too_large(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.tile(X, (400, 1))
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=rows, chunks=rows.shape, compression="gzip")
    with h5py.File(path, "r", rdcc_nbytes=0) as file:
        assert file["train"].chunks == rows.shape
    source = open_source(path)
    reads = 0
    original = hdf5.Location.open

    def counted(self: object, **options: bool) -> object:
        file = original(self, **options)
        read = file.readinto

        def readinto(buffer: object) -> int:
            nonlocal reads
            reads += len(memoryview(buffer).cast("B"))
            return read(buffer)

        file.readinto = readinto
        return file

    monkeypatch.setattr(hdf5.Location, "open", counted)
    np.testing.assert_array_equal(np.concatenate([c.vectors for c in source.chunks(10)]), rows)
    assert reads < 3 * path.stat().st_size
    monkeypatch.setattr(hdf5, "HELD_BYTES", rows.nbytes - 1)
    with pytest.raises(FileError, match="packed in pieces of 4800 rows"):
        open_source(path)
