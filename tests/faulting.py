"""Faults for every writer, and threads on every reader: what was there stays, what comes is whole.

`python -m tests.faulting` injects some thousands of faults and prints the counts: disks that fill up at a
random byte, syncs and renames that fail, writers killed at a random moment, and threads and forks that fold
and search while others change what they search. A result is lost where a file is neither the old nor the new
one, something is left beside it, or a thread gets another answer than one alone.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from nearfold import Codec, Encoder, SearchIndex, fit_codec
from nearfold.bulk.apply import apply
from nearfold.errors import NearfoldError
from nearfold.io.base import Chunk, Layout
from nearfold.io.vectors import open_sink

X = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
ENCODER = Encoder(X[:8])

Write = Callable[[Path, Codec], object]
"""Writes into a folder."""


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: what a writer sees is what a full disk shows it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def folded(suffix: str) -> Write:
    """Return what writes folded vectors to a file of one format."""
    z = ENCODER.transform(X)

    def write(folder: Path, _: Codec) -> None:
        with open_sink(folder / f"z{suffix}", Layout(*z.shape, z.dtype, "vectors")) as sink:
            for start in range(0, len(z), 500):
                sink.write(Chunk(z[start : start + 500]))

    return write


WRITERS: dict[str, Write] = {
    "encoder": lambda folder, _: Encoder(X[:16, :]).save(folder / "fold.safetensors"),
    "codec": lambda folder, codec: codec.save(folder / "codec.safetensors"),
    "index": lambda folder, codec: SearchIndex.build(codec, X).save(folder / "index"),
    **{suffix: folded(suffix) for suffix in (".npy", ".npz", ".parquet", ".arrow", ".fvecs", ".fbin")},
}


def left(folder: Path) -> dict[str, str]:
    """Return the checksum of each file below a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def attempt(write: Write, folder: Path, codec: Codec) -> bool:
    """Write, and return whether that was refused, by an error of nearfold's; any other one goes on."""
    try:
        write(folder, codec)
    except NearfoldError:
        return True
    return False


class Counts:
    """What was tried, and what came of it."""

    def __init__(self) -> None:
        self.lost = 0

    def told(self, what: str, tried: int, lost: int) -> None:
        """Print one kind's counts."""
        self.lost += lost
        print(f"{what}: {tried:,} tried, {lost} lost", flush=True)


def full_disks(counts: Counts, codec: Codec, rounds: int, rng: random.Random) -> None:
    """Fill the disk at a random byte of what is written, over what is there already."""
    for name, write in WRITERS.items():
        lost = refused = 0
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(folder, codec)
            largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            for _ in range(rounds):
                before = left(folder)
                with files_of_at_most(rng.randrange(largest)):
                    failed = attempt(write, folder, codec)
                refused += failed
                # An index that is whole is a new generation of files; one that was refused is the old one.
                lost += (left(folder) != before) if failed else (name == "index" and not whole(folder))
        counts.told(f"full disk, {name} ({refused} refused)", rounds, lost)


def whole(folder: Path) -> bool:
    """Return whether a folder holds one index and nothing else."""
    return not list(folder.rglob(".*")) and len(SearchIndex.load(folder / "index")) == len(X)


def failing_calls(counts: Counts, codec: Codec, rounds: int, rng: random.Random) -> None:
    """Let a random sync or rename fail."""
    places: list[tuple[Any, str]] = [(os, "fsync"), (Path, "replace")]
    for name, write in WRITERS.items():
        lost = refused = 0
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(folder, codec)
            for _ in range(rounds):
                owner, call = rng.choice(places)
                real, after = getattr(owner, call), rng.randrange(2)
                before = left(folder)

                def failing(*given: Any, real: Any = real, calls: list[int] = [after]) -> Any:  # noqa: B006
                    calls[0] -= 1
                    if calls[0] < 0:
                        raise OSError(errno.EIO, "Input/output error")
                    return real(*given)

                setattr(owner, call, failing)
                try:
                    failed = attempt(write, folder, codec)
                finally:
                    setattr(owner, call, real)
                refused += failed
                # What is written is what is there already, but for an index's next generation of files.
                lost += (not whole(folder)) if name == "index" and not failed else left(folder) != before
        counts.told(f"failed sync or rename, {name} ({refused} refused)", rounds, lost)


_SAVER = """
import sys, numpy as np
from nearfold import Codec, SearchIndex
folder = sys.argv[1]
index = SearchIndex.load(folder)
print("ready", flush=True)
while True:
    index.add(index.search(np.ones((1, 32), "f4"), 1).scores.repeat(32, axis=1))
    index.save(folder)
"""


def killed(counts: Counts, codec: Codec, rounds: int, rng: random.Random) -> None:
    """Kill a process that adds to an index and saves it, over and over."""
    lost = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "index"
        SearchIndex.build(codec, X).save(folder)
        for _ in range(rounds):
            before = len(SearchIndex.load(folder))
            command = [sys.executable, "-W", "ignore", "-c", _SAVER, str(folder)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
                assert running.stdout is not None
                running.stdout.readline()
                time.sleep(rng.uniform(0, 0.3))
                running.kill()
            try:
                lost += len(SearchIndex.load(folder)) < before
            except NearfoldError:
                lost += 1
    counts.told("writers of an index killed", rounds, lost)


def killed_folders(counts: Counts, rounds: int, rng: random.Random) -> None:
    """Stop a fold of a folder between its shards, and go on."""
    lost = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "in").mkdir()
        for part in range(6):
            np.save(folder / "in" / f"{part}.npy", X[: 400 * (part + 1)])
        apply(ENCODER, folder / "in", folder / "whole")
        wanted = left(folder / "whole")
        for _ in range(rounds):
            shutil.rmtree(folder / "out", ignore_errors=True)
            with files_of_at_most(rng.randrange(100_000)), suppress(NearfoldError):
                apply(ENCODER, folder / "in", folder / "out")
            apply(ENCODER, folder / "in", folder / "out")
            lost += left(folder / "out") != wanted
    counts.told("folders gone on with after a full disk", rounds, lost)


def together(work: Callable[[int], int], n_threads: int) -> int:
    """Run work in threads at once; return the sum of what it lost, counting one that raised."""
    lost = [0] * n_threads

    def run(number: int) -> None:
        lost[number] = 1
        lost[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(lost)


def threads_fold(counts: Counts, codec: Codec, rounds: int) -> None:
    """Fold, encode and search in threads."""
    index = SearchIndex.build(codec, X)
    z, codes, found = ENCODER.transform(X), codec.encode(X), index.search(X[:50], 5)

    def work(_: int) -> int:
        lost = 0
        for _ in range(rounds):
            lost += not np.array_equal(ENCODER.transform(X), z)
            lost += not np.array_equal(codec.encode(X), codes)
            lost += not np.array_equal(index.search(X[:50], 5).ids, found.ids)
        return lost

    counts.told("answers to 8 threads", 8 * rounds * 3, together(work, 8))


def threads_change(counts: Counts, codec: Codec, rounds: int) -> None:
    """Search in threads while another adds and removes: what was there from the start is always found."""
    index = SearchIndex.build(codec, X)
    own = np.arange(50)

    def work(number: int) -> int:
        lost = 0
        for turn in range(rounds):
            if number == 0:
                ids = 10_000 + np.arange(20) + 100 * turn
                index.add(X[:20] * 0.5 + 7, ids)
                index.remove(ids)
            else:
                lost += not (index.search(X[:50], 1, n_candidates=20).ids[:, 0] == own).all()
        return lost

    counts.told("searches of 4 threads beside one that changes", 4 * rounds, together(work, 5))
    counts.told("vectors in the end", len(X), abs(len(index) - len(X)))


def forks(counts: Counts, rounds: int) -> None:
    """Fold in children of a process whose BLAS has threads."""
    code = (
        "import os, sys, numpy as np\n"
        "from nearfold import Encoder\n"
        "X = np.random.default_rng(0).standard_normal((20000, 256)).astype('f4')\n"
        "encoder = Encoder(X[:64])\n"
        "z, lost = encoder.transform(X), 0\n"
        f"for _ in range({rounds}):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(0 if np.allclose(encoder.transform(X), z, rtol=1e-4, atol=1e-3) else 7)\n"
        "    lost += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0\n"
        "print(lost)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60 + rounds)
    counts.told("folds by forks", rounds, int(ended.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="of each kind and writer")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, counts = random.Random(given.seed), Counts()
    codec = fit_codec(X, "NearFold16,SQ8")
    full_disks(counts, codec, given.rounds, rng)
    failing_calls(counts, codec, given.rounds, rng)
    killed_folders(counts, given.rounds, rng)
    killed(counts, codec, given.rounds, rng)
    threads_fold(counts, codec, given.rounds)
    threads_change(counts, codec, 10 * given.rounds)
    forks(counts, given.rounds)
    print(f"{counts.lost} lost")
    sys.exit(bool(counts.lost))


if __name__ == "__main__":
    main()
