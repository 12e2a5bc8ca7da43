"""An index in a folder: what it removes, opens, believes and lets others overwrite."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from nearfold import Codec, SearchIndex, fit_codec
from nearfold.errors import FileError
from nearfold.search import fingerprint, scattered
from nearfold.search import storage as saved
from nearfold.search.storage import verify_index
from nearfold.search.vectors import Segment

X = np.random.default_rng(3).standard_normal((260, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return fit_codec(X, "PCA6,SQ8")


def signed(folder: Path) -> None:
    """Make the manifest's checksums those of the files as they are now."""
    manifest = json.loads((folder / "index.json").read_text())
    for name in manifest["parts"].values():
        content = (folder / name).read_bytes()
        manifest["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
    (folder / "index.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ("PCA6,SQ8", "flat ivf hnsw"),
        ("PCA6,F32", "flat ivf hnsw"),
        ("PCA6,F16", "flat ivf hnsw"),
        ("PCA6,PQ2", "flat ivf"),
        ("PCA8,RaBitQ1", "flat"),
    ],
)
def test_what_faiss_wrote_is_put_together_as_it_was(spec: str, kinds: str, tmp_path: Path) -> None:
    codec = fit_codec(X, spec)
    for kind in kinds.split():
        index = SearchIndex.build(codec, X, kind=kind)
        index.save(tmp_path / kind)
        again = SearchIndex.load(tmp_path / kind)
        wrote, read = (faiss.serialize_index(each._candidates.index).tobytes() for each in (index, again))
        assert wrote == read, kind


def test_names_that_others_have_are_left_to_them(codec: Codec, tmp_path: Path) -> None:
    folder = tmp_path / "i"
    folder.mkdir()
    theirs = ["000001.index.faiss", "vectors-000002-0.npy", "000003.rows.safetensors", ".film.part"]
    for name in theirs:
        (folder / name).write_text("theirs")
    np.save(folder / "000007.npy", X)
    for _ in range(3):
        SearchIndex.build(codec, X).save(folder)
    SearchIndex.build(codec, folder / "000007.npy").save(folder)
    SearchIndex.build(codec, X).save(folder)
    assert all((folder / name).read_text() == "theirs" for name in theirs)
    assert np.array_equal(np.load(folder / "000007.npy"), X)


def test_a_file_changed_since_it_was_written_is_not_removed(codec: Codec, tmp_path: Path) -> None:
    SearchIndex.build(codec, X).save(tmp_path)
    own = tmp_path / "000001.rows.safetensors"
    own.write_bytes(bytes(own.stat().st_size))
    SearchIndex.build(codec, X).save(tmp_path)
    assert own.exists()


def test_who_saves_last_does_not_undo_the_first(codec: Codec, tmp_path: Path) -> None:
    SearchIndex.build(codec, X).save(tmp_path)
    first, second = SearchIndex.load(tmp_path), SearchIndex.load(tmp_path)
    first.add(X[:2])
    first.save(tmp_path)
    first.save(tmp_path)
    second.remove([0])
    with pytest.raises(FileError, match="load it again"):
        second.save(tmp_path)
    assert len(SearchIndex.load(tmp_path)) == len(X) + 2


@pytest.mark.parametrize("name", ["base.npy", "base.fvecs"])
def test_full_vectors_that_change_are_refused(codec: Codec, name: str, tmp_path: Path) -> None:
    from nearfold.io.base import Chunk, Layout
    from nearfold.io.vectors import open_sink

    path, index = tmp_path / name, tmp_path / "i"
    with open_sink(path, Layout(*X.shape, X.dtype, "vectors")) as sink:
        sink.write(Chunk(X))
    SearchIndex.build(codec, path).save(index)
    loaded = SearchIndex.load(index)
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(200)
    with pytest.raises(FileError, match=name):
        loaded.search(X[:2], 3)
    with pytest.raises(FileError, match="has changed"):
        SearchIndex.load(index)
    path.write_bytes(content)
    # The same bytes at another time: the caller has to say that this is the file.
    with pytest.raises(FileError, match="base="):
        SearchIndex.load(index)
    assert len(SearchIndex.load(index, base=path).search(X[:2], 3).ids) == 2
    path.write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(FileError, match="has changed"):
        SearchIndex.load(index, base=path)


def test_an_index_opens_nothing_outside_of_its_folder(codec: Codec, tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret.npy", tmp_path / "i"
    np.save(secret, X)
    SearchIndex.build(codec, X).save(folder)
    manifest = json.loads((folder / "index.json").read_text())
    segment = manifest["segments"][0]
    for path in (str(secret), "../secret.npy"):
        for known in (segment["known"], None):
            changed = {**manifest, "segments": [{**segment, "path": path, "known": known}]}
            (folder / "index.json").write_text(json.dumps(changed))
            with pytest.raises(FileError, match=r"secret\.npy"):
                SearchIndex.load(folder)
    (folder / "index.json").write_text(json.dumps(manifest))
    for name in [*manifest["parts"].values(), segment["path"], "index.json"]:
        shutil.move(folder / name, tmp_path / "away")
        (folder / name).symlink_to(tmp_path / "away")
        with pytest.raises(FileError, match="is a link"):
            SearchIndex.load(folder)
        (tmp_path / "away").replace(folder / name)


def test_the_folder_of_another_table_is_no_place_for_an_index(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "_manifest.json").write_text("{}")
    with pytest.raises(FileError, match="another folder"):
        SearchIndex.build(codec, X).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["_manifest.json"]


def test_verifying_reads_every_byte(codec: Codec, tmp_path: Path) -> None:
    SearchIndex.build(codec, np.tile(X, (200, 1)), ids=np.arange(200 * len(X))).save(tmp_path)
    assert verify_index(tmp_path).vectors == 200 * len(X)
    path = next(tmp_path.glob("vectors-*"))
    status, content = path.stat(), bytearray(path.read_bytes())
    content[40_000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(FileError, match=path.name):
        verify_index(tmp_path)


def test_a_failed_save_leaves_the_folder_as_it_was(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    SearchIndex.build(codec, X[:200]).save(tmp_path)
    (tmp_path / "000002.index.faiss").write_text("theirs")
    (tmp_path / "deep" / ".film.0123456789abcdef.part").mkdir(parents=True)
    (tmp_path / "deep" / ".film.0123456789abcdef.part" / "content").write_text("theirs")
    before = contents()
    for broken in (faiss, "write_index"), (saved, "safetensors_bytes"), (saved, "encoded"):
        index = SearchIndex.build(codec, X)
        with monkeypatch.context() as patch:
            patch.setattr(*broken, failing)
            with pytest.raises((OSError, FileError), match="full"):
                index.save(tmp_path)
        assert contents() == before
    assert len(SearchIndex.load(tmp_path)) == 200


def failing(*_: object) -> None:
    raise OSError(28, "full")


@pytest.mark.parametrize("way", ["by the system's copy", "by place", "in turn"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_are_read_alike_on_every_system(
    way: str, dtype: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "by the system's copy":
        monkeypatch.setattr(scattered, "_COPY", None)
    if way == "in turn":
        monkeypatch.delattr(os, "preadv", raising=False)
    held = np.random.default_rng(0).standard_normal((5000, 40)).astype(dtype)
    np.save(tmp_path / "base.npy", held)
    segment = Segment.of_file(str(tmp_path / "base.npy"))
    draw = np.random.default_rng(1)
    for rows in (
        np.arange(5000),
        np.arange(0, 5000, 3),
        draw.permutation(5000)[:3000],
        np.sort(draw.choice(5000, 40)),
        np.array([7]),
        np.empty(0, np.int64),
    ):
        assert np.array_equal(segment.take(rows), held[rows])
    os.truncate(tmp_path / "base.npy", 4096)
    for rows in (np.arange(0, 5000, 500), np.arange(4000, 4100)):
        with pytest.raises(FileError, match="has changed"):
            segment.take(rows)


def test_vectors_that_an_earlier_version_listed_are_never_removed(tmp_path: Path) -> None:
    # It listed a user's file in the folder like its own: nothing tells them apart.
    kept = Path(__file__).parents[1] / "kept" / "0.1" / "index"
    shutil.copytree(kept, tmp_path / "i")
    index = SearchIndex.load(tmp_path / "i")
    index.save(tmp_path / "i")
    SearchIndex.build(index.codec, index._vectors.segments[0].take(np.arange(400))).save(tmp_path / "i")
    assert (tmp_path / "i" / "vectors-000001-0.npy").read_bytes() == (
        kept / "vectors-000001-0.npy"
    ).read_bytes()
    assert not (tmp_path / "i" / "000001.index.faiss").exists()


def test_full_vectors_are_digested_once(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "base.npy", X)
    read: list[Path] = []
    whole = fingerprint._whole
    monkeypatch.setattr(fingerprint, "_whole", lambda path: read.append(path) or whole(path))
    index = SearchIndex.build(codec, tmp_path / "base.npy")
    for _ in range(3):
        index.save(tmp_path / "i")
    again = SearchIndex.load(tmp_path / "i")
    again.save(tmp_path / "i")
    assert read == [tmp_path / "base.npy"]


def test_a_copied_folder_is_not_read_in_full_where_it_is_large(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SearchIndex.build(codec, X).save(tmp_path / "i")
    shutil.copytree(tmp_path / "i", tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.setattr(fingerprint, "_SMALL", 1000)
    monkeypatch.setattr(fingerprint, "_whole", failing)
    assert len(SearchIndex.load(tmp_path / "copy")) == len(X)


@pytest.mark.parametrize("spec", ["SQ8", "SQ4", "F16"])
def test_few_rows_are_found_beside_numbers_that_look_like_their_count(tmp_path: Path, spec: str) -> None:
    """Two codes of SQ8 are as many bytes as it has ranges: both counts stand in the file."""
    vectors = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    codec = fit_codec(vectors, spec)
    for rows in range(1, 7):
        SearchIndex.build(codec, vectors[:rows]).save(tmp_path / f"{rows}")
        again = SearchIndex.load(tmp_path / f"{rows}")
        assert again.search(vectors[:rows], 1).ids[:, 0].tolist() == list(range(rows))
