"""Indexes whose parts are sound and belong to different indexes: each is refused, by a file of the folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nearfold import SearchIndex, fit_codec, verify
from nearfold.errors import FileError

rng = np.random.default_rng(5)
X = rng.standard_normal((300, 12)).astype(np.float32)
Y = rng.standard_normal((300, 12)).astype(np.float32)


def parts(folder: Path) -> dict[str, Path]:
    named = json.loads((folder / "index.json").read_text())["parts"]
    return {name.split(".")[0]: folder / file for name, file in named.items()}


def signed(folder: Path) -> None:
    """Make the manifest's checksums those of the files as they are now."""
    manifest = json.loads((folder / "index.json").read_text())
    for name in manifest["parts"].values():
        content = (folder / name).read_bytes()
        manifest["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
    (folder / "index.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sound")
    cosine = fit_codec(X, "PCA6,SQ8")
    built = {
        "flat": SearchIndex.build(cosine, X, certify=True),
        "ivf": SearchIndex.build(cosine, X, kind="ivf"),
        "hnsw": SearchIndex.build(cosine, X, kind="hnsw"),
        "shared": SearchIndex.build(cosine, np.concatenate([X[:200], X[:100]])),
        "other": SearchIndex.build(cosine, Y, certify=True),
        "other ivf": SearchIndex.build(cosine, Y, kind="ivf"),
        "other hnsw": SearchIndex.build(cosine, Y, kind="hnsw"),
        "short": SearchIndex.build(cosine, X[:250], certify=True),
        "short ivf": SearchIndex.build(cosine, X[:250], kind="ivf"),
        "short hnsw": SearchIndex.build(cosine, X[:250], kind="hnsw"),
        "l2": SearchIndex.build(fit_codec(X, "PCA6,SQ8", metric="l2"), X, certify=True),
        "narrow": SearchIndex.build(fit_codec(X, "PCA4,SQ8"), X, certify=True),
        "floats": SearchIndex.build(fit_codec(X, "PCA6,F16"), X),
        "pq": SearchIndex.build(fit_codec(X, "PCA6,PQ2"), X),
        "wide": SearchIndex.build(fit_codec(np.tile(X, 2), "PCA6,SQ8"), np.tile(X, 2), certify=True),
        "trained": SearchIndex.build(fit_codec(Y, "PCA6,SQ8"), Y, certify=True),
    }
    for name, index in built.items():
        index.save(home / name)
    moved = SearchIndex.build(cosine, X)
    moved.remove(np.arange(160))
    moved.save(home / "rows")
    return home


def swapped(part: str, other: str) -> Callable[[Path, Path], None]:
    """Take a part from another index."""

    def change(folder: Path, home: Path) -> None:
        shutil.copyfile(parts(home / other)[part], parts(folder)[part])

    return change


def array(name: str, how: Callable[[Any], Any] | None) -> Callable[[Path, Path], None]:
    """Change one of the arrays, or leave it out."""

    def change(folder: Path, _: Path) -> None:
        path = parts(folder)["rows"]
        arrays = load_file(path)
        before = arrays.pop(name, None)
        if how is not None:
            arrays[name] = np.ascontiguousarray(how(None if before is None else before.copy()))
        save_file(arrays, path)

    return change


def taken(name: str, other: str) -> Callable[[Path, Path], None]:
    """Take one of the arrays, or those that begin so, from another index."""

    def change(folder: Path, home: Path) -> None:
        path = parts(folder)["rows"]
        theirs = load_file(parts(home / other)["rows"])
        found = {each: held for each, held in theirs.items() if each.startswith(name)}
        assert found
        save_file(load_file(path) | found, path)

    return change


def said(**changes: Any) -> Callable[[Path, Path], None]:
    """Change settings in the manifest."""

    def change(folder: Path, _: Path) -> None:
        path = folder / "index.json"
        manifest = json.loads(path.read_text())
        manifest["settings"] |= changes
        path.write_text(json.dumps(manifest))

    return change


def segments(how: Callable[[list[Any]], list[Any]]) -> Callable[[Path, Path], None]:
    def change(folder: Path, _: Path) -> None:
        path = folder / "index.json"
        manifest = json.loads(path.read_text())
        manifest["segments"] = how(manifest["segments"])
        path.write_text(json.dumps(manifest))

    return change


def vectors(make: Callable[[], np.ndarray]) -> Callable[[Path, Path], None]:
    """Put other full vectors in the place of its own, with nothing recorded of them."""

    def change(folder: Path, _: Path) -> None:
        manifest = json.loads((folder / "index.json").read_text())
        (segment,) = manifest["segments"]
        np.save(folder / segment["path"], make())
        del segment["known"]
        (folder / "index.json").write_text(json.dumps(manifest))

    return change


def read(folder: Path) -> Any:
    return faiss.read_index(str(parts(folder)["index"]))


def graph(how: Callable[[Any], None]) -> Callable[[Path, Path], None]:
    """Change the graph that faiss wrote, by what it is in memory."""

    def change(folder: Path, _: Path) -> None:
        index = read(folder)
        how(index.hnsw)
        faiss.write_index(index, str(parts(folder)["index"]))

    return change


def out_of(held: str, at: int, value: int) -> Callable[[Any], None]:
    def how(hnsw: Any) -> None:
        numbers = faiss.vector_to_array(getattr(hnsw, held))
        numbers[at] = value
        faiss.copy_array_to_vector(numbers, getattr(hnsw, held))

    return how


def lists(how: Callable[[np.ndarray], None]) -> Callable[[Path, Path], None]:
    """Change the numbers of the codes in the longest list."""

    def change(folder: Path, _: Path) -> None:
        index = read(folder)
        held = index.invlists
        longest = max(range(index.nlist), key=held.list_size)
        how(faiss.rev_swig_ptr(held.get_ids(longest), held.list_size(longest)))
        faiss.write_index(index, str(parts(folder)["index"]))

    return change


def counted(more: int) -> Callable[[Path, Path], None]:
    """Say another number of codes in the head of faiss's file."""

    def change(folder: Path, _: Path) -> None:
        path = parts(folder)["index"]
        content = bytearray(path.read_bytes())
        content[8:16] = (int.from_bytes(content[8:16], "little") + more).to_bytes(8, "little")
        path.write_bytes(content)

    return change


def on_disk(folder: Path, _: Path) -> None:
    """Have faiss's file name another in which its lists are."""
    index = read(folder)
    named = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(folder.parent / "theirs"))
    named.merge_from_1(index.invlists)
    index.replace_invlists(named)
    faiss.write_index(index, str(parts(folder)["index"]))


def set_to(at: int, value: Any) -> Callable[[Any], Any]:
    def how(held: Any) -> Any:
        held[at] = value
        return held

    return how


def tensor(how: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], None]:
    """Change the first learned array of the codec's quantiser."""

    def change(folder: Path, _: Path) -> None:
        path = parts(folder)["pipeline"]
        with safe_open(path, "np") as file:
            metadata = {name: text for name, text in file.metadata().items() if "digest" not in name}
        held = load_file(path)
        name = next(each for each in sorted(held) if each.startswith("quantizer."))
        held[name] = np.ascontiguousarray(how(held[name]))
        save_file(held, path, metadata)

    return change


MISFITS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    **{
        f"{part} of {other}": ("flat", swapped(part, other))
        for part in ("pipeline", "index", "rows")
        for other in ("l2", "narrow", "short", "trained")
        if (part, other) != ("pipeline", "short")
    },
    **{f"codec of {other}": ("flat", swapped("pipeline", other)) for other in ("wide", "floats", "pq")},
    **{f"codes of {other}": ("flat", swapped("index", other)) for other in ("ivf", "hnsw", "other", "pq")},
    "rows of other": ("flat", swapped("rows", "other")),
    "rows of shared": ("flat", swapped("rows", "shared")),
    **{f"lists of {o}": ("ivf", swapped("index", o)) for o in ("flat", "other ivf", "short ivf", "hnsw")},
    "lists' rows of other": ("ivf", swapped("rows", "other ivf")),
    **{f"graph of {o}": ("hnsw", swapped("index", o)) for o in ("flat", "other hnsw", "short hnsw", "ivf")},
    "says ivf": ("flat", said(kind="ivf")),
    "says hnsw": ("flat", said(kind="hnsw")),
    "says flat": ("ivf", said(kind="flat")),
    "ids short": ("flat", array("ids", lambda held: held[:-1])),
    "ids long": ("flat", array("ids", lambda held: np.append(held, 10**6))),
    "ids twice": ("flat", array("ids", set_to(5, 7))),
    "ids below 0": ("flat", array("ids", set_to(5, -1))),
    "ids of another type": ("flat", array("ids", lambda held: held.astype(np.int32))),
    "ids of two axes": ("flat", array("ids", lambda held: held[:, None])),
    "ids missing": ("flat", array("ids", None)),
    "removed short": ("flat", array("removed", lambda held: held[:-1])),
    "removed as numbers": ("flat", array("removed", lambda held: held.astype(np.uint8))),
    "removed missing": ("flat", array("removed", None)),
    "norms missing": ("flat", array("norms", None)),
    "norms short": ("flat", array("norms", lambda held: held[:-1])),
    "norms zero": ("flat", array("norms", set_to(3, 0))),
    "norms not a number": ("flat", array("norms", set_to(3, np.nan))),
    "norms of other vectors": ("flat", taken("norms", "other")),
    "norms under l2": ("l2", array("norms", lambda _: np.ones(300, np.float32))),
    "certificates of other vectors": ("flat", taken("certificates", "other")),
    "certificates of another width": ("flat", taken("certificates", "narrow")),
    "certificates of wider vectors": ("flat", taken("certificates", "wide")),
    "certificates of fewer": ("flat", taken("certificates", "short")),
    "certificates of another fit": ("flat", taken("certificates.back", "trained")),
    "certificates half missing": ("flat", array("certificates.plane", None)),
    "certificates below 0": ("flat", array("certificates.rows", set_to(3, -1))),
    "certificates of lists": ("ivf", taken("certificates", "flat")),
    "centroids under flat": ("flat", taken("centroids", "ivf")),
    "centroids missing": ("ivf", array("centroids", None)),
    "centroids fewer": ("ivf", array("centroids", lambda held: held[:-1])),
    "centroids none": ("ivf", array("centroids", lambda held: held[:0])),
    "centroids in another order": ("ivf", array("centroids", lambda held: np.roll(held, 1, axis=0))),
    "centroids narrower": ("ivf", array("centroids", lambda held: held[:, :4])),
    "entries out of range": ("shared", array("entries", set_to(3, 10**6))),
    "entries below 0": ("shared", array("entries", set_to(3, -1))),
    "entries missing": ("shared", array("entries", None)),
    "entries short": ("shared", array("entries", lambda held: held[:-1])),
    "entries in another order": ("shared", array("entries", lambda held: held[::-1])),
    "rows out of range": ("rows", array("rows", set_to(3, 300))),
    "rows below 0": ("rows", array("rows", set_to(3, -1))),
    "rows twice": ("rows", array("rows", set_to(3, 165))),
    "rows missing": ("rows", array("rows", None)),
    "rows in another order": ("rows", array("rows", lambda held: held[::-1])),
    "an array too many": ("flat", array("more", lambda _: np.ones(300))),
    "more codes said": ("flat", counted(1)),
    "fewer codes said": ("flat", counted(-1)),
    "many more codes said": ("flat", counted(2**60)),
    "more in lists said": ("ivf", counted(1)),
    "more vertices said": ("hnsw", counted(1)),
    "links out of range": ("hnsw", graph(out_of("neighbors", 0, 10**6))),
    "links below -1": ("hnsw", graph(out_of("neighbors", 0, -2))),
    "offsets out of range": ("hnsw", graph(out_of("offsets", 5, 10**9))),
    "levels out of range": ("hnsw", graph(out_of("levels", 5, 90))),
    "an entry that is not there": ("hnsw", graph(lambda hnsw: setattr(hnsw, "entry_point", 300))),
    "more levels than there are": ("hnsw", graph(lambda hnsw: setattr(hnsw, "max_level", 9))),
    "list numbers out of range": ("ivf", lists(lambda held: held.__setitem__(0, 300))),
    "list numbers below 0": ("ivf", lists(lambda held: held.__setitem__(0, -1))),
    "list numbers twice": ("ivf", lists(lambda held: held.__setitem__(0, held[1]))),
    "lists on disk": ("ivf", on_disk),
    "no segments": ("flat", segments(lambda held: held[1:])),
    "a segment twice": ("flat", segments(lambda held: held * 2)),
    "a segment of fewer": ("flat", segments(lambda held: [held[0] | {"rows": 299}])),
    "vectors of other rows": ("flat", vectors(lambda: Y)),
    "vectors in another order": ("flat", vectors(lambda: X[::-1])),
    "wider vectors": ("flat", vectors(lambda: np.tile(X, 2))),
    "fewer vectors": ("flat", vectors(lambda: X[:299])),
    "vectors of zeros": ("flat", vectors(lambda: np.zeros_like(X))),
    "a codebook of another shape": ("pq", tensor(lambda held: held[:1])),
    "a codebook of another": ("pq", tensor(lambda held: held[::-1] + 1)),
    "a codebook with an axis more": ("pq", tensor(lambda held: held[..., None])),
}


@pytest.mark.parametrize("name", MISFITS)
def test_parts_of_different_indexes_are_refused(name: str, sound: Path, tmp_path: Path) -> None:
    kind, change = MISFITS[name]
    folder = tmp_path / "i"
    shutil.copytree(sound / kind, folder)
    change(folder, sound)
    signed(folder)
    for work in (SearchIndex.load, verify):
        with pytest.raises(FileError) as error:
            work(folder)
        said = str(error.value)
        assert "\n" not in said
        assert any(str(path) in said for path in folder.iterdir()), said


def test_sound_indexes_load(sound: Path) -> None:
    for folder in sound.iterdir():
        assert verify(folder)["vectors"] == len(SearchIndex.load(folder))
