"""Mutated files for every reader: only a NearfoldError may come of one, in bounded time and memory.

`python -m tests.fuzzing --files 100000` runs so many, some processes at a time, and prints the counts; each
case is known by its reader and number, and can be run again alone with `--only READER --case NUMBER`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nearfold import Codec, Encoder, MLPEncoder, NearFold, ScanCheckpoint, SearchIndex, fit_codec, load
from nearfold.errors import NearfoldError
from nearfold.io.base import Chunk, Layout
from nearfold.io.vectors import FORMATS, open_sink, open_source, read_source

SECONDS = 10.0
MEGABYTES = 400

X = (np.random.default_rng(0).standard_normal((300, 16))).astype(np.float32)


class Target(NamedTuple):
    """What is fuzzed: how a sound file or folder is made at a path, how it is read, and how it is changed."""

    ending: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    damage: Callable[[Path, random.Random], object] | None = None
    """Makes a damaged one; `mutate` unless it knows better what there is to damage."""


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


def read_table(path: Path) -> None:
    """Read all columns, and look at every value of them, as whoever writes them elsewhere does."""
    for chunk in open_source(path).chunks(64):
        if chunk.others is not None:
            for column in chunk.others.columns:
                column.to_pylist()
                pc.sum(pc.is_valid(column))


def damaged_numbers(content: bytes, rng: random.Random) -> bytes:
    """Return a buffer with one to three of its numbers changed to ones that point elsewhere."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        size = rng.choice((1, 4, 8))
        if len(data) >= size:
            place = rng.randrange(len(data) // size) * size
            value = rng.choice((-1, -(2**31), 1, 7, 64, 1000, 70_000, 2**20, 2**28, 2**31 - 1, 2**40, 2**62))
            data[place : place + size] = (value % 256**size).to_bytes(size, "little")
    return bytes(data)


def other_columns(rng: random.Random) -> pa.Array:
    """Return a sound array of one of the types that a column beside the vectors may have."""
    n = len(X)
    words = ["", "a", "some words", "x" * 40, None]
    texts = [rng.choice(words) for _ in range(n)]
    numbers = [rng.choice((None, 1, 2, 300)) for _ in range(n)]
    lists = [[1] * rng.randrange(4) for _ in range(n)]
    pairs = [[(text or "k", 1)] for text in texts]
    kinds: list[Callable[[], pa.Array]] = [
        lambda: pa.array(texts),
        lambda: pa.array(texts, pa.large_string()),
        lambda: pa.array(texts, pa.string_view()),
        lambda: pa.array([None if t is None else t.encode() for t in texts], pa.binary()),
        lambda: pa.array(texts).dictionary_encode(),
        lambda: pa.array([[text] * 2 for text in texts]).filter(pa.array([True] * n)),
        lambda: pa.array(lists, pa.list_(pa.int64())),
        lambda: pa.array(lists, pa.large_list(pa.int8())),
        lambda: pa.array(lists, pa.list_view(pa.int16())),
        lambda: pa.array(lists, pa.large_list_view(pa.float32())),
        lambda: pa.array([{"a": t, "b": v} for t, v in zip(texts, lists, strict=True)]),
        lambda: pa.array(pairs, pa.map_(pa.string(), pa.int32())),
        lambda: pa.array(numbers, pa.int32()),
        lambda: pa.array([value is None for value in numbers]),
        lambda: pc.run_end_encode(pa.array(numbers, pa.int32())),
        lambda: pa.UnionArray.from_dense(
            pa.array([i % 2 for i in range(n)], pa.int8()),
            pa.array([i // 2 for i in range(n)], pa.int32()),
            [pa.array(texts), pa.array(range(n))],
        ),
        lambda: pa.UnionArray.from_sparse(
            pa.array([i % 2 for i in range(n)], pa.int8()), [pa.array(texts), pa.array(range(n))]
        ),
        lambda: pa.DictionaryArray.from_arrays(
            pa.array([i % 3 for i in range(n)], pa.int8()), pa.array([["a"], ["b", "c"], []])
        ),
        lambda: pa.array([b"0123456789abcdef"] * n, pa.uuid()),
        lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((n, 2, 3), np.float32)),
    ]
    return rng.choice(kinds)()


def write_hostile(path: Path, rng: random.Random) -> None:
    """Write a table with a column beside the vectors whose buffers lie about what they point to."""
    other = other_columns(rng)
    if path.suffix == ".parquet":
        options = {"compression": rng.choice(("none", "snappy", "zstd")), "row_group_size": 64}
        vectors = pa.array(list(X), pa.list_(pa.float32(), X.shape[1]))
        with contextlib.suppress(pa.ArrowException):
            pq.write_table(pa.table({"v": vectors, "other": other}), path, **options)
            path.write_bytes(mutated(path.read_bytes(), rng))
            return
        other = pa.array(["x"] * len(X))
        pq.write_table(pa.table({"v": vectors, "other": other}), path, **options)
        path.write_bytes(mutated(path.read_bytes(), rng))
        return
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    if rng.random() < 0.2:
        vectors = pa.array(list(X), rng.choice((pa.list_(pa.float32()), pa.list_view(pa.float32()))))
    table = pa.table({"v": vectors, "other": other})
    out = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=rng.choice((None, None, "lz4", "zstd")))
    make = pa.ipc.new_file if rng.random() < 0.5 else pa.ipc.new_stream
    rows = rng.choice((64, 1000))
    with make(out, table.schema, options=options) as writer:
        for start in range(0, len(X), rows):
            whole = table.slice(start, rows).combine_chunks().to_batches()[0]
            # The writer itself notices some of what is wrong, and not all columns may change dictionaries.
            with contextlib.suppress(pa.ArrowException):
                writer.write_batch(damaged_batch(whole, rng))
    content = out.getvalue()
    path.write_bytes(mutated(content, rng) if rng.random() < 0.2 else content)


def damaged_batch(batch: pa.RecordBatch, rng: random.Random) -> pa.RecordBatch:
    """Return a batch one of whose arrays has a buffer that was changed, or cut, or taken away."""
    if rng.random() < 0.2:
        return batch
    place = 1 if rng.random() < 0.85 else 0
    arrays = list(batch.columns)
    with contextlib.suppress(pa.ArrowException, NotImplementedError, ValueError, TypeError):
        arrays[place] = damaged_array(pa.concat_arrays([arrays[place]]), rng)
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def damaged_array(array: pa.Array, rng: random.Random) -> pa.Array:
    """Return an array with one of its buffers, or of those below it, changed; pyarrow checks none of it."""
    if isinstance(array, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(array.type, damaged_array(array.storage, rng))
    if isinstance(array, pa.DictionaryArray):
        indices, values = array.indices, array.dictionary
        if rng.random() < 0.7:
            indices = damaged_array(indices, rng)
        else:
            values = damaged_array(values, rng)
        return pa.DictionaryArray.from_arrays(indices, values, safe=False)
    schema = pa.schema([pa.field("x", array.type)])
    # C structures hold the buffers of every type alike.
    batch = pa.RecordBatch.from_arrays([array], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    content = bytearray(sink.getvalue().to_pybytes())
    with pa.ipc.open_stream(bytes(content)) as reader:
        pass
    message_reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(bytes(content)))
    schema_message = message_reader.read_next_message()
    message = message_reader.read_next_message()
    body = damaged_numbers(message.body.to_pybytes(), rng)
    start = content.rindex(message.body.to_pybytes()) if len(body) else 0
    content[start : start + len(body)] = body
    del schema_message, reader
    with pa.ipc.open_stream(bytes(content)) as reader:
        return reader.read_next_batch().column(0)


def make_network(path: Path) -> None:
    layers = [(X[:8], np.zeros(8, np.float32)), (X[:4, :8], np.ones(4, np.float32))]
    MLPEncoder(layers, method="made").save(path, card=False)


def make_state(path: Path) -> None:
    np.save(path.with_suffix(".npy"), X)
    NearFold(4).fit(path.with_suffix(".npy"), checkpoint=path)


def make_index(path: Path) -> None:
    SearchIndex.build(fit_codec(X, "NearFold8,SQ8"), X).save(path)


def read_index(path: Path) -> None:
    SearchIndex.load(path).search(X[:2], k=3)


TARGETS: dict[str, Target] = {
    **{suffix: Target(suffix, make_vectors, read_vectors) for suffix in FORMATS},
    "columns of .arrow": Target(".arrow", make_vectors, read_table, write_hostile),
    "columns of .parquet": Target(".parquet", make_vectors, read_table, write_hostile),
    "encoder": Target(
        ".safetensors",
        lambda path: Encoder(X[:4], bias=np.ones(4, np.float32), method="made").save(path, card=False),
        lambda path: load(path).transform(X[:2]),
    ),
    "network": Target(".safetensors", make_network, lambda path: load(path).transform(X[:2])),
    "codec": Target(
        ".safetensors",
        lambda path: fit_codec(X, "NearFold8,PQ4").save(path),
        lambda path: Codec.load(path).encode(X[:2]),
    ),
    "state": Target(".safetensors", make_state, ScanCheckpoint.load),
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
            (target.damage or mutate)(path, random.Random(f"{name} {number}"))
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
    parser.add_argument("--columns", action="store_true", help="only tables with hostile other columns")
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
    names = [name for name in targets if not given.only or name == given.only]
    names = [name for name in names if not given.columns or name.startswith("columns")]
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
