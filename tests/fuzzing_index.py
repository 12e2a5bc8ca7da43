"""Index folders whose files are well-formed and do not fit: an error of ours or a sound answer comes of one.

`python -m tests.fuzzing_index --cases 5000` makes so many, with checksums made anew after each change, and
prints the counts; each runs by its number, in processes whose end counts as wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from nearfold import SearchIndex, fit_codec
from nearfold.errors import NearfoldError

X = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)

SOUND = [
    ("NearFold6,SQ8", "flat"),
    ("NearFold6,SQ8", "ivf"),
    ("NearFold6,F16", "hnsw"),
    ("NearFold4,PQ2", "flat"),
    ("RaBitQ1", "flat"),
]

# What no index may open, though its manifest or its parts name it: a file, and a pipe that nobody writes to.
CANARY, PIPE = "canary.npy", "canary.fvecs"
_opened: list[str] = []

# A case that takes longer is stuck.
_SECONDS = 20


def watch(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and "canary" in str(given[0]):
        _opened.append(str(given[0]))


def set_canary(folder: Path) -> None:
    """Make the canary look as if it was not read since it was written."""
    os.utime(folder / CANARY, ns=(0, 10**18))


def touched(folder: Path) -> str | None:
    """Return what was done with the canary; what Python doesn't see, as libraries in C++ would do it, too."""
    if _opened:
        return f"opened {_opened[0]}"
    status = (folder / CANARY).stat()
    # Systems that keep no times of access leave it at 0.
    if (status.st_atime_ns, status.st_mtime_ns) != (0, 10**18):
        return "the canary was read or written"
    maps = Path("/proc/self/maps")
    return "mapped the canary" if maps.exists() and "canary" in maps.read_text() else None


def make(folder: Path) -> None:
    """Write the sound indexes."""
    np.save(folder / CANARY, X)
    os.mkfifo(folder / PIPE)
    for number, (spec, kind) in enumerate(SOUND):
        codec = fit_codec(X, spec, metric="l2" if number == 3 else "cosine")
        index = SearchIndex.build(codec, X, kind=kind, certify=number == 0)
        index.add(X[:4])
        index.remove(np.arange(9))
        index.save(folder / str(number))


def change_array(path: Path, rng: random.Random) -> None:
    """Change one array of a safetensors file: its numbers, length, type or name."""
    arrays = load_file(path)
    name = rng.choice(sorted(arrays))
    array = arrays[name].copy()
    how = rng.randrange(7)
    if how == 0 and array.size:
        value = rng.choice([-1, 0, 1, 10**6, 2**62, float("nan"), float("inf"), -1e30])
        with np.errstate(all="ignore"):
            array.reshape(-1)[rng.randrange(array.size)] = np.asarray(value).astype(array.dtype)
    elif how == 1:
        array = array[: rng.randrange(len(array) + 1)]
    elif how == 2:
        array = np.concatenate([array, array[: rng.randrange(1, 9)]])
    elif how == 3:
        array = array.astype(rng.choice([np.float64, np.int32, np.uint8, np.float16]))
    elif how == 4:
        array = array[..., None]
    elif how == 5:
        arrays.pop(name)
    else:
        arrays[f"{name}x"] = arrays.pop(name)
    if name in arrays:
        arrays[name] = np.ascontiguousarray(array)
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata()
    save_file(arrays, path, metadata)


def change_bytes(path: Path, rng: random.Random) -> None:
    """Change numbers in a file of faiss, or have it name a file."""
    content = bytearray(path.read_bytes())
    if rng.random() < 0.1:
        name = str(path.parent.parent / rng.choice([CANARY, PIPE])).encode()
        lists = b"ilod" + bytes(24) + len(name).to_bytes(8, "little") + name + len(X).to_bytes(8, "little")
        place = content.find(b"ilar")
        place = place if place >= 0 else rng.randrange(len(content))
        content[place : place + len(lists)] = lists
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(min(len(content), rng.choice([60, 400, 4000, len(content)])) - 8)
        size = rng.choice([1, 4, 8])
        value = rng.choice([0, 1, 7, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1])
        content[place : place + size] = (value % 256**size).to_bytes(size, "little")
    if rng.random() < 0.2:
        del content[rng.randrange(len(content)) :]
    path.write_bytes(content)


def change_manifest(folder: Path, manifest: dict[str, Any], rng: random.Random) -> None:
    """Change a value somewhere in the manifest."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(manifest)
    node, key = rng.choice(places)
    values = [
        None,
        -1,
        0,
        2**70,
        1.5,
        "",
        "x",
        [],
        {},
        True,
        str(folder.parent / CANARY),
        str(folder.parent / PIPE),
        f"../{CANARY}",
        "/dev/zero",
        "flat",
        "ivf",
    ]
    node[key] = rng.choice(values)


def mutate(folder: Path, others: Path, rng: random.Random) -> None:
    """Change one part, or take it from another index; checksums are made anew."""
    manifest = json.loads((folder / "index.json").read_text())
    parts = dict(manifest["parts"])
    how = rng.randrange(5)
    if how == 0:
        change_array(folder / parts["rows.safetensors"], rng)
    elif how == 1:
        change_array(folder / parts["pipeline.safetensors"], rng)
    elif how == 2:
        change_bytes(folder / parts["index.faiss"], rng)
    elif how == 3:
        name = rng.choice(list(parts.values()))
        shutil.copyfile(others / str(rng.randrange(len(SOUND))) / name, folder / name)
    for name in parts.values():
        content = (folder / name).read_bytes()
        manifest["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
    if how == 4:
        change_manifest(folder, manifest, rng)
    (folder / "index.json").write_text(json.dumps(manifest))


def use(folder: Path) -> None:
    """Load an index, search and change it; what it answers must be what an index can answer."""
    index = SearchIndex.load(folder)
    for n_candidates in (None, 0):
        found = index.search(X[:3], 4, n_candidates=n_candidates)
        assert np.isin(found.ids, np.append(index.ids, -1)).all(), "an id that is not in the index"
    index.add(X[:2])
    index.remove(index.ids[:2])


def cases(numbers: range, folder: Path) -> Iterator[tuple[int, str | None]]:
    """Run cases, and yield each number with what went wrong, None where nothing did."""
    if not (folder / CANARY).exists():
        make(folder)
    sys.addaudithook(watch)
    for number in numbers:
        rng = random.Random(number)
        case = folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(folder / str(rng.randrange(len(SOUND))), case)
        mutate(case, folder, rng)
        _opened.clear()
        set_canary(folder)
        wrong = None
        try:
            use(case)
        except NearfoldError as error:
            wrong = None if str(error) and "\n" not in str(error) else "no line of text"
        except Exception as error:
            wrong = "".join(traceback.format_exception(error))
        yield number, touched(folder) or wrong


def work(start: int, stop: int, folder: Path) -> None:
    """Run cases in this process, and print what came of each."""
    signal.alarm(_SECONDS)
    for found in cases(range(start, stop), folder):
        print(json.dumps(found), flush=True)
        signal.alarm(_SECONDS)


def wrong_of(numbers: range) -> list[tuple[int, str]]:
    """Run cases in processes of their own, one after another, each gone on with where the last one ended."""
    start, wrong = numbers.start, []
    with tempfile.TemporaryDirectory() as folder:
        while start < numbers.stop:
            command = [sys.executable, "-W", "ignore", "-m", "tests.fuzzing_index"]
            ended = subprocess.run(
                [*command, "--work", str(start), str(numbers.stop), folder],
                capture_output=True,
                text=True,
                check=False,
            )
            done = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
            wrong += [(number, said.strip().splitlines()[-1]) for number, said in done if said]
            start += len(done)
            if start < numbers.stop:
                wrong.append((start, f"the process ended with {ended.returncode}: {ended.stderr[-300:]}"))
                start += 1
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(int(given.work[0]), int(given.work[1]), Path(given.work[2]))
        return
    ends = np.linspace(given.first, given.first + given.cases, given.processes + 1).astype(int).tolist()
    with ThreadPoolExecutor(given.processes) as pool:
        wrong = [
            bad
            for part in pool.map(wrong_of, itertools.starmap(range, itertools.pairwise(ends)))
            for bad in part
        ]
    for number, said in wrong[:50]:
        print(f"  {number}: {said}")
    print(f"{given.cases:,} folders, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
