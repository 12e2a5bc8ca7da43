"""Files that are well-formed, whose digests are right, and that say odd things: manifests, journals,
checkpoints, folds and codecs. Only a NearfoldError may come of one, and no path outside may be touched.

`python -m tests.fuzzing_structure --files 20000` runs so many; see `tests.fuzzing`.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors.numpy import save_file

from nearfold import Encoder, NearFold, load
from nearfold.bulk import folder as shards
from nearfold.bulk.apply import apply
from nearfold.bulk.folder import verify_folder
from nearfold.bulk.manifest import MANIFEST
from nearfold.bulk.update import update
from nearfold.codecs.codec import Codec, load_any
from nearfold.codecs.fitting import CodecFitter
from nearfold.codecs.verification import verify_file
from nearfold.errors import FileError, NearfoldError
from nearfold.evaluation.drift import drift, readable_facts
from nearfold.folds.fold import Fold, read_safetensors
from nearfold.folds.origin import DIGEST, sealed
from nearfold.io.held import held_rows
from nearfold.scan.checkpoint import ScanCheckpoint
from nearfold.scan.local import LocalEngine

from .fuzzing import Target, X, main, make_network

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        255,
        2**31,
        2**48,
        2**63,
        2**64,
        10**30,
        -(10**30),
        0.5,
        1e308,
        -0.0,
    ),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "0",
        "cosine",
        "l2",
        "nearfold.encoder",
        "PQ4",
        "AQ999999",
        "a\nb",
    ),
    *(
        "../outside/secret",
        "/etc/passwd",
        "a/../../outside/secret",
        "link/secret",
        ".",
        "..",
        "\0",
        "\x1b[2J",
    ),
    *([], {}, [[]], [1], {"rows": -1}, [None], "a" * 5_000, ["x"] * 50),
)

FOLD = Encoder(X[:4], np.ones(4, np.float32), method="made")

# What a case must not open, list, make or remove; see `_look`.
OUTSIDE = "outside"
_seen: list[str] = []
_looking = False


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if _looking and event.partition(".")[0] in ("open", "os", "shutil"):
        _seen.extend(f"{event} {a}" for a in arguments if isinstance(a, str | bytes) and OUTSIDE in str(a))


sys.addaudithook(_look)


@contextlib.contextmanager
def watched(home: Path) -> Iterator[None]:
    """Fail where anything below `outside` beside a case's folder is touched, by whatever name."""
    global _looking  # noqa: PLW0603
    outside = home.parent / OUTSIDE
    outside.mkdir(exist_ok=True)
    (outside / "secret").write_bytes(b"secret")
    _seen.clear()
    _looking = True
    try:
        yield
    finally:
        _looking = False
        assert not _seen, _seen
        assert [path.name for path in outside.iterdir()] == ["secret"]
        assert (outside / "secret").read_bytes() == b"secret"


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in JSON: what holds it, and its name or number there."""
    places: Iterable[Any] = value if isinstance(value, dict) else range(len(value))
    for place in list(places):
        yield value, place
        if isinstance(value[place], dict | list):
            yield from nodes(value[place])


def change_json(value: Any, rng: random.Random) -> None:
    """Change one to three places of JSON."""
    for _ in range(rng.randint(1, 3)):
        places = list(nodes(value))
        if not places:
            return
        home, place = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del home[place]
        elif kind == 1 and isinstance(home, list):
            home.insert(rng.randrange(len(home) + 1), copy.deepcopy(home[place]))
        elif kind == 1:
            home[rng.choice(("other", "", "file", "rows", "a\nb"))] = copy.deepcopy(home[place])
        elif kind == 2:
            other, there = rng.choice(places)
            with contextlib.suppress(KeyError, IndexError):
                home[place] = json.loads(json.dumps(other[there]))
        elif kind == 3 and isinstance(home[place], int | float):
            home[place] = home[place] + rng.choice((-1, 1, 0.5, 1 << 40))
        elif kind == 4 and isinstance(home[place], str) and home[place]:
            home[place] = rng.choice(
                (home[place][:-1], home[place] * 2, home[place].upper(), f"../{home[place]}")
            )
        else:
            home[place] = copy.deepcopy(rng.choice(ODD))


def dumped(value: Any, rng: random.Random) -> bytes:
    """Return JSON, now and then with what only a text can hold."""
    text = json.dumps(value)
    kind = rng.randrange(40)
    if kind == 0:
        depth = rng.choice((100, 5_000, 100_000))
        text = text.replace("1", "[" * depth + "]" * depth, 1)
    elif kind == 1 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + "," + text[1:]
    elif kind == 2:
        return text.encode("utf-16")
    return text.encode()


def change_tensors(tensors: dict[str, Any], rng: random.Random) -> None:
    """Change one to three tensors."""
    for _ in range(rng.randint(1, 3)):
        if not tensors:
            return
        name = rng.choice(sorted(tensors))
        array = np.array(tensors[name])
        kind = rng.randrange(12)
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            tensors[
                rng.choice(("other", f"{name}.x", "weight", "kept", "fold.bias", "projection.rotation"))
            ] = array
        elif kind == 2:
            tensors[name] = array.astype(rng.choice(("f2", "f4", "f8", "i4", "i8", "u1", "?")))
        elif kind == 3:
            tensors[name] = array[: rng.randrange(len(array) + 1)] if array.ndim else array
        elif kind == 4:
            tensors[name] = array.reshape(-1) if rng.random() < 0.5 else array[None]
        elif kind == 5:
            tensors[name] = array.T
        elif kind == 6:
            tensors[name] = np.concatenate([array, array]) if array.ndim else array
        elif kind == 7:
            other = rng.choice(sorted(tensors))
            tensors[name], tensors[other] = tensors[other], array
        elif kind == 8:
            tensors[name] = array[::-1] if array.ndim else array
        elif array.size:
            value = rng.choice((np.nan, np.inf, -np.inf, 0, -1, 1, 1e30, 3.4e38, -5, 2**31, 2**60, 7))
            with np.errstate(all="ignore"):
                array.flat[rng.randrange(array.size)] = np.array(value).astype(array.dtype)
            tensors[name] = array


def mutate_tensors(path: Path, rng: random.Random) -> None:
    """Change what a safetensors file of nearfold says or holds, and mostly make its digest anew."""
    metadata, tensors = read_safetensors(path)
    seal = metadata.pop(DIGEST)
    said: dict[str, Any] = dict(metadata)
    for name in ("parameters", "facts", "request", "inputs"):
        if name in said:
            said[name] = json.loads(said[name])
    if rng.random() < 0.5:
        change_json(said, rng)
    else:
        change_tensors(tensors, rng)
    texts = {
        str(name): value if isinstance(value, str) else dumped(value, rng).decode("utf-8", "replace")
        for name, value in said.items()
    }
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    # The last files of all have a digest of before.
    save_file(whole, path, sealed(whole, texts) if rng.random() < 0.95 else {**texts, DIGEST: seal})


def make_encoder(path: Path) -> None:
    stats = [{"rows": 500, "recall": 0.5, "energy": 0.9, "loss": 0.1}]
    FOLD.with_facts(rows=300, drift_stats=stats, fingerprint="ab").save(path, card=False)


ROWS = np.random.default_rng(1).standard_normal((600, X.shape[1])).astype(np.float32)


def read_fold(path: Path) -> None:
    """Read a fold or codec and use all that is read of it."""
    with watched(path):
        loaded = load_any(path)
        verify_file(path)
        assert np.isfinite(
            loaded.transform(X[:3], dtype=np.uint8 if isinstance(loaded, Codec) else "f4")
        ).all()
        if isinstance(loaded, Codec):
            json.dumps(loaded.as_dict())
            index = loaded.index()
            index.add_sa_codes(loaded.encode(X[:20]))
            index.search(loaded.prepare_queries(X[:2]), 3)
            return
        assert isinstance(loaded, Fold)
        assert loaded.card()
        readable_facts(loaded)
        with contextlib.suppress(FileError):
            drift(loaded, ROWS)


def make_checkpoint(path: Path) -> None:
    np.save(path.with_suffix(".npy"), X)
    estimator = NearFold(4, n_steps=3, n_anchors=30, n_neighbors=5)
    estimator.fit(path.with_suffix(".npy"), checkpoint=path).encoder_.save(
        path.with_suffix(".fold"), card=False
    )


def read_checkpoint(path: Path) -> None:
    """Read a scan and add rows to it."""
    with watched(path):
        state = ScanCheckpoint.load(path)
        new = path.with_name("new.npy")
        np.save(new, ROWS[:40])
        known = load(path.with_name("sound.fold"))
        assert isinstance(known, Encoder)
        updated = update(known, state, new)
        assert np.isfinite(updated.fold.weight).all()


class _Interrupted(LocalEngine):
    """Ends behind three shards."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 3:
                raise FileError("interrupted")
            yield function(item)


def _inputs(home: Path) -> Path:
    folder = home / "in"
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("a", "b", "deep/c", "d", "e")):
        path = folder / f"{name}.npy"
        if not path.exists():
            np.save(path, X[number : number + 5 + number])
            os.utime(path, (1, 1))
    return folder


def make_folder(path: Path) -> None:
    apply(FOLD, _inputs(path.parent), path)


def make_unfinished(path: Path) -> None:
    with (
        contextlib.suppress(FileError),
        mock.patch.object(shards, "engine_for", return_value=_Interrupted(10**9)),
    ):
        apply(FOLD, _inputs(path.parent), path)


def mutate_folder(path: Path, rng: random.Random) -> None:
    """Change what a folder's manifest or journal says, or a shard with what is said of it."""
    (path / "link").symlink_to(path.parent / OUTSIDE)
    manifest, journal = path / MANIFEST, path / ".journal.jsonl"
    if manifest.exists():
        said = json.loads(manifest.read_bytes())
        entries = said["shards"]
    else:
        said = [json.loads(line) for line in journal.read_bytes().splitlines()]
        entries = said[1:]
    kind = rng.randrange(6)
    entry = rng.choice(entries)
    shard = path / entry["file"]
    if kind == 0:
        data = bytearray(shard.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        shard.write_bytes(data)
        if rng.random() < 0.5:
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    elif kind == 1:
        # A file of somebody else's where a link or a name leads.
        entry["file"] = rng.choice(
            ("../outside/secret", "link/secret", str(path.parent / OUTSIDE / "secret"))
        )
        entry |= {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    elif kind == 2:
        shard.unlink()
        if rng.random() < 0.5:
            shard.symlink_to(path.parent / OUTSIDE / "secret")
            entry |= {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    else:
        change_json(said, rng)
    if manifest.exists():
        manifest.write_bytes(dumped(said, rng))
    else:
        journal.write_bytes(b"".join(dumped(line, rng) + b"\n" for line in said))


def read_folder(path: Path) -> None:
    """Verify a folder, and run again what made it; what is sound in the end has all rows."""
    inputs = _inputs(path.parent)
    with watched(path):
        verified = None
        with contextlib.suppress(NearfoldError):
            verified = verify_folder(path)
        done = apply(FOLD, inputs, path)
        verify_folder(path)
        assert done.rows == 35
        if verified is None:
            np.testing.assert_allclose(held_rows(path), FOLD.transform(held_rows(inputs)), rtol=1e-5)


def _codec(spec: str) -> Target:
    def make(path: Path) -> None:
        metric = "l2" if spec.endswith("l2") else "cosine"
        CodecFitter(X, metric=metric, budget=0.02).fit(spec.split()[0]).save(path)

    return Target(".safetensors", make, read_fold, mutate_tensors)


SPECS = (
    "NearFold8,SQ8",
    "SQ4",
    "PQ4",
    "OPQ4_8",
    "Binary",
    "RaBitQ2",
    "NearFold8,F16",
    "NearFold8,AQ4",
    "NearFold8,RSQ2",
    "AQ4 l2",
)

TARGETS: dict[str, Target] = {
    "manifest": Target("", make_folder, read_folder, mutate_folder),
    "journal": Target("", make_unfinished, read_folder, mutate_folder),
    "checkpoint": Target("", make_checkpoint, read_checkpoint, mutate_tensors),
    "encoder": Target(".safetensors", make_encoder, read_fold, mutate_tensors),
    "network": Target(".safetensors", make_network, read_fold, mutate_tensors),
    **{spec: _codec(spec) for spec in SPECS},
}


if __name__ == "__main__":
    main("tests.fuzzing_structure", TARGETS, __doc__)
