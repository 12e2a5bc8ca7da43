"""Kill `nearfold apply` at random moments, run it again, and compare every byte of what is left."""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data import load

from nearfold import PCA

NEARFOLD = str(Path(sys.executable).with_name("nearfold"))


def digest(folder: Path) -> dict[str, str]:
    """Return the checksum of every file below a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def state(folder: Path) -> str:
    """Return how far a killed run had come."""
    if not folder.exists():
        return "nothing written"
    if (folder / "_manifest.json").exists():
        return "finished"
    files = list(folder.rglob("*"))
    if any(path.parent.name.endswith(".part") for path in files):
        return "in the middle of a file"
    return "between files" if len(files) > 1 else "nothing written"


def main(data: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    base, _ = load(data, "wordnet-minilm-384")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        PCA(96).fit(base).encoder_.save(work / "fold.safetensors")
        parts = work / "parts"
        parts.mkdir()
        for i, rows in enumerate(np.array_split(base, 40)):
            table = pa.table({"id": range(len(rows)), "v": pa.array(list(rows), pa.list_(pa.float32(), 384))})
            pq.write_table(table, parts / f"{i:02d}.parquet")
        np.save(work / "all.npy", np.concatenate([base] * 12))
        ends: Counter[str] = Counter()
        lost = 0
        for source in (parts, work / "all.npy"):
            out = work / "out"
            command = [NEARFOLD, "apply", str(work / "fold.safetensors"), str(source), "-o", str(out), "-q"]
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            whole = time.perf_counter() - started
            wanted = digest(out)
            for _ in range(kills // 2):
                shutil.rmtree(out)
                # Half of the kills fall where the shards are written, which is the end of the run.
                moment = rng.uniform(0 if rng.random() < 0.5 else 0.5 * whole, 1.05 * whole)
                running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                time.sleep(moment)
                running.send_signal(signal.SIGKILL)
                running.wait()
                ends[state(out)] += 1
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                lost += digest(out) != wanted
            shutil.rmtree(out)
            print(f"{source.name}: {len(wanted)} files, a whole run takes {whole:.2f} s", flush=True)
    print(f"{sum(ends.values())} kills ({', '.join(f'{n} {end}' for end, n in ends.items())}); {lost} lost")
    sys.exit(bool(lost))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.data, given.kills, given.seed)
