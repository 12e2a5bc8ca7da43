"""Mutated files for every reader: only a NearfoldError may come of one, in bounded time and memory.

`python -m tests.fuzzing --files 100000` runs so many, some processes at a time, and prints the counts; each
case is known by its reader and number, and can be run again alone with `--only READER --case NUMBER`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nearfold import Encoder, MLPEncoder, NearFold, Pipeline, SearchIndex, fit_pipeline, load, read_state
from nearfold.errors import NearfoldError
from nearfold.io.base import Chunk, Layout
from nearfold.io.vectors import FORMATS, open_sink, open_source, read_source
from nearfold.scale.fit import fit_files

SECONDS = 10.0
MEGABYTES = 400

X = (np.random.default_rng(0).standard_normal((300, 16))).astype(np.float32)


class Target(NamedTuple):
    """What is fuzzed: how a sound file or folder is made at a path, how it is read, and how it is changed."""

    ending: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    mutate: Callable[[Path, random.Random], object] | None = None
    """None: bytes of it are."""


def read_vectors(path: Path) -> None:
    source = open_source(path)
    read_source(source)
    source.take(np.array([0, source.layout.rows - 1]))


def make_vectors(path: Path) -> None:
    suffix = path.suffix
    table = pa.table({"id": range(len(X)), "v": pa.array(list(X), pa.list_(pa.float32(), X.shape[1]))})
    if suffix == ".npy":
        np.save(path, X)
    elif suffix == ".npz":
        np.savez_compressed(path, vectors=X)
    elif suffix == ".parquet":
        pq.write_table(table, path, row_group_size=64)
    elif suffix in (".arrow", ".feather"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=64)
    elif suffix in (".hdf5", ".h5"):
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("train", data=X, chunks=(64, 16), compression="gzip")
    elif suffix == ".lance":
        import lance

        lance.write_dataset(table, path)
    else:
        make_written(path)


def make_written(path: Path) -> None:
    """Write a file of a format that nearfold writes, in the first type of numbers that it takes."""
    for dtype in ("f4", "u1", "i1", "i4"):
        with contextlib.suppress(NearfoldError):
            rows = np.abs(X * 9).astype(dtype)
            with open_sink(path, Layout(*rows.shape, rows.dtype, "vectors")) as sink:
                sink.write(Chunk(rows))
            return
    raise AssertionError(f"no sound {path.suffix} file to start from; make one in make_vectors")


def make_network(path: Path) -> None:
    layers = [(X[:8], np.zeros(8, np.float32)), (X[:4, :8], np.ones(4, np.float32))]
    MLPEncoder(layers, method="made").save(path, card=False)


def make_state(path: Path) -> None:
    np.save(path.with_suffix(".npy"), X)
    fit_files(NearFold(4), path.with_suffix(".npy"), state=path)


def make_index(path: Path) -> None:
    SearchIndex.build(fit_pipeline(X, "NearFold8,SQ8"), X).save(path)


def read_index(path: Path) -> None:
    SearchIndex.load(path).search(X[:2], k=3)


TARGETS: dict[str, Target] = {
    **{suffix: Target(suffix, make_vectors, read_vectors) for suffix in FORMATS},
    "encoder": Target(
        ".safetensors",
        lambda path: Encoder(X[:4], bias=np.ones(4, np.float32), method="made").save(path, card=False),
        lambda path: load(path).transform(X[:2]),
    ),
    "network": Target(".safetensors", make_network, lambda path: load(path).transform(X[:2])),
    "pipeline": Target(
        ".safetensors",
        lambda path: fit_pipeline(X, "NearFold8,PQ4").save(path),
        lambda path: Pipeline.load(path).encode(X[:2]),
    ),
    "state": Target(".safetensors", make_state, read_state),
    "index": Target("", make_index, read_index),
}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return a file's content with one to four things changed."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        kind, place = rng.randrange(8), rng.randrange(len(data))
        # Headers and footers are where a reader believes what it is told.
        if rng.random() < 0.5:
            near = rng.randrange(min(400, len(data)))
            place = near if rng.random() < 0.6 else len(data) - 1 - near
        length = min(rng.choice((1, 2, 8, 64, 1000)), len(data) - place)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            value = rng.choice((0, 1, 255, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1))
            data[place : place + size] = (value % 256**size).to_bytes(size, rng.choice(("little", "big")))
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + length]
        elif kind == 5:
            data[place:place] = data[place : place + length]
        elif kind == 6:
            data[place:place] = rng.randbytes(length)
        else:
            numbers = list(re.finditer(rb"\d+", bytes(data[:4000])))
            if numbers:
                found = rng.choice(numbers)
                value = rng.choice((b"0", b"-1", b"1", b"99999999999", b"18446744073709551616", b"1e400"))
                data[found.start() : found.end()] = value
    return bytes(data)


def mutate(path: Path, rng: random.Random) -> None:
    """Change a file, or one file of a folder."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    chosen = rng.choice(files)
    chosen.write_bytes(mutated(chosen.read_bytes(), rng))


def peak() -> int:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def cases(
    name: str, numbers: range, folder: Path, targets: dict[str, Target] = TARGETS
) -> Iterator[tuple[int, str | None]]:
    """Run cases, and yield each number with what went wrong, None where nothing did."""
    target = targets[name]
    sound, path = folder / f"sound{target.ending}", folder / f"case{target.ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not sound.exists():
            target.make(sound)
        # The first reading loads libraries.
        target.read(sound)
        for number in numbers:
            if sound.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                shutil.copytree(sound, path)
            else:
                shutil.copyfile(sound, path)
            (target.mutate or mutate)(path, random.Random(f"{name} {number}"))
            before, began = peak(), time.perf_counter()
            wrong = None
            try:
                target.read(path)
            except NearfoldError as error:
                wrong = "an empty message" if not str(error) else None
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                wrong = "".join(traceback.format_exception(error))
            seconds, grown = time.perf_counter() - began, peak() - before
            if seconds > SECONDS or grown > MEGABYTES:
                wrong = f"took {seconds:.1f} s and {grown} MB"
            yield number, wrong


def work(name: str, start: int, stop: int, targets: dict[str, Target]) -> None:
    """Run cases as a process of its own: print what went wrong, and each number before its case."""
    with tempfile.TemporaryDirectory() as folder:
        for number, wrong in cases(name, range(start, stop), Path(folder), targets):
            print(json.dumps([number, wrong]), flush=True)


def run(module: str, name: str, start: int, stop: int) -> list[tuple[int, str]]:
    """Run cases in a process; one that dies loses the case it was at, and another goes on behind it."""
    found: list[tuple[int, str]] = []
    while start < stop:
        command = [sys.executable, "-m", module, "--only", name, "--work", str(start), str(stop)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        done = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
        found += [(number, wrong) for number, wrong in done if wrong]
        start += len(done)
        if start < stop:
            found.append((start, f"the process ended with {ended.returncode}: {ended.stderr[-2000:]}"))
            start += 1
    return found


def main(module: str, targets: dict[str, Target], said: str | None) -> None:
    parser = argparse.ArgumentParser(description=said)
    parser.add_argument("--files", type=int, default=100_000, help="over all readers")
    parser.add_argument("--only", choices=targets)
    parser.add_argument("--case", type=int, help="run one case here, with its traceback")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.only, *given.work, targets)
        return
    if given.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(next(cases(given.only, range(given.case, given.case + 1), Path(folder), targets))[1])
        return
    names = [given.only] if given.only else list(targets)
    each = -(-given.files // len(names))
    total = 0
    for name in names:
        began = time.perf_counter()
        pieces = [(start, min(each, start + 500)) for start in range(0, each, 500)]
        with ThreadPoolExecutor(given.processes) as pool:
            wrong = [w for found in pool.map(lambda piece: run(module, name, *piece), pieces) for w in found]  # noqa: B023
        total += len(wrong)
        print(f"{name}: {each:,} files, {len(wrong)} wrong, {time.perf_counter() - began:.0f} s", flush=True)
        for number, said in wrong[:3]:
            print(f"  --only {name} --case {number}: {said.strip().splitlines()[-1]}", flush=True)
    print(f"{each * len(names):,} files, {total} wrong")
    sys.exit(bool(total))


if __name__ == "__main__":
    main("tests.fuzzing", TARGETS, __doc__)
