"""Folds inside saved models, which their own libraries load."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from model2vec import StaticModel
from tokenizers import Tokenizer, models, pre_tokenizers

from nearfold import Encoder, MLPEncoder
from nearfold._utils.arrays import normalize_rows
from nearfold.errors import FileError, ParameterError
from nearfold.integrations.models import write_model2vec, write_sentence_transformer

Vectors = npt.NDArray[np.float32]
TEXTS = ["word1 word2", "word3", "word7 word7 word9 word2"]


def tokenizer() -> Tokenizer:
    made = Tokenizer(
        models.WordLevel({"[UNK]": 0, **{f"word{i}": i for i in range(1, 50)}}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


@pytest.fixture
def static(base: Vectors, tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    StaticModel(base[:50], tokenizer(), normalize=True).save_pretrained(str(folder))
    return folder


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_model2vec_encodes_folded_texts(static: Path, fold: Encoder, tmp_path: Path) -> None:
    before = fingerprint(static)
    write_model2vec(fold, static, tmp_path / "folded")
    assert fingerprint(static) == before
    full, folded = (StaticModel.from_pretrained(str(path)) for path in (static, tmp_path / "folded"))
    wanted = normalize_rows(fold.transform(full.encode(TEXTS)))
    np.testing.assert_allclose(folded.encode(TEXTS), wanted, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folded", "static"]


def test_what_a_static_model_cannot_take_is_refused(
    static: Path, fold: Encoder, biased: Encoder, network: MLPEncoder, tmp_path: Path
) -> None:
    out = tmp_path / "folded"
    with pytest.raises(ParameterError, match="bias"):
        write_model2vec(biased, static, out)
    with pytest.raises(ParameterError, match="network"):
        write_model2vec(network, static, out)
    with pytest.raises(FileError, match="64 dimensions"):
        write_model2vec(Encoder(np.eye(3, 20)), static, out)
    with pytest.raises(FileError, match="saved model"):
        write_model2vec(fold, tmp_path / "nowhere", out)
    with pytest.raises(FileError, match="exists already"):
        write_model2vec(fold, static, static)
    (static / "config.json").write_text("{")
    with pytest.raises(FileError, match="damaged"):
        write_model2vec(fold, static, out)
    assert not out.exists()


def _transformer(folder: Path, pooled: bool, vectors: Vectors) -> Any:
    """Save a small sentence-transformers model without downloads."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, StaticEmbedding

    modules: list[Any] = [StaticEmbedding(tokenizer(), embedding_weights=vectors[:50])]
    if pooled:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["fold", "biased"])
@pytest.mark.parametrize("pooled", [False, True])
def test_sentence_transformers_loads_the_fold_as_its_last_layers(
    kind: str, pooled: bool, base: Vectors, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    fold: Encoder = request.getfixturevalue(kind)
    source, out = tmp_path / "model", tmp_path / "folded"
    _transformer(source, pooled, base)
    before = fingerprint(source)
    write_sentence_transformer(fold, source, out)
    assert fingerprint(source) == before
    full, folded = (SentenceTransformer(str(path), device="cpu") for path in (source, out))
    wanted = fold.transform(full.encode(TEXTS))
    if fold.metric == "cosine":
        wanted = normalize_rows(wanted)
    np.testing.assert_allclose(folded.encode(TEXTS), wanted, atol=1e-5)
    assert folded.get_sentence_embedding_dimension() == 16
    folded.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), wanted, atol=1e-5)


def test_a_model_of_other_dimensions_is_refused(fold: Encoder, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}]
    (model / "modules.json").write_text(json.dumps(modules))
    pooling = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}
    (model / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(FileError, match="384 dimensions, the fold takes 64"):
        write_sentence_transformer(fold, model, tmp_path / "out")
    pooling["word_embedding_dimension"] = 64
    (model / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (model / "config_sentence_transformers.json").write_text('{"truncate_dim": 32}')
    with pytest.raises(FileError, match="truncate_dim"):
        write_sentence_transformer(fold, model, tmp_path / "out")
    (model / "modules.json").write_text("{}")
    with pytest.raises(FileError, match="damaged"):
        write_sentence_transformer(fold, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


MODULES = [{"idx": 0, "name": "0", "path": "a", "type": "x"}]


def _layers(folder: Path, modules: object, config: object) -> Path:
    (folder / "a").mkdir(parents=True)
    (folder / "modules.json").write_text(modules if isinstance(modules, str) else json.dumps(modules))
    (folder / "a" / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("modules", "config"),
    [
        ("[" * 10_000, {}),
        ("[null]", {}),
        ({"path": "a"}, {}),
        ([{"path": 3}], {}),
        ([{"path": "../a"}], {}),
        ([{"path": "/etc"}], {}),
        ([{"path": "a\0"}], {}),
        (MODULES, []),
        (MODULES, "nothing"),
        (MODULES, '{"out_features": 1e400}'),
        (MODULES, {"out_features": "64"}),
        (MODULES, {"out_features": 0}),
        (MODULES, {"word_embedding_dimension": [64]}),
        (MODULES, {"embedding_dimension": True}),
        (MODULES, {"embedding_dimension": 1 << 70}),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    modules: object, config: object, fold: Encoder, tmp_path: Path
) -> None:
    model = _layers(tmp_path / "model", modules, config)
    with pytest.raises(FileError, match="model"):
        write_sentence_transformer(fold, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
@pytest.mark.parametrize("where", ["a/vocab.txt", "a/config.json", "folder", "a/pipe"])
def test_nothing_outside_a_model_is_copied(where: str, fold: Encoder, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text('{"out_features": 64}')
    model = _layers(tmp_path / "model", MODULES, {"out_features": 64})
    (model / where).unlink(missing_ok=True)
    if where == "a/pipe":
        os.mkfifo(model / where)
    else:
        (model / where).symlink_to(tmp_path / "secrets" / ("" if where == "folder" else "key"))
    with pytest.raises(FileError, match=r"link out of the model's folder|is a pipe"):
        write_sentence_transformer(fold, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")
def test_a_model_of_a_hub_s_cache_is_copied_whole(fold: Encoder, tmp_path: Path) -> None:
    cache = tmp_path / "models--maker--name"
    model = _layers(cache / "snapshots" / "0123", MODULES, {"out_features": 64})
    (cache / "blobs").mkdir()
    (cache / "blobs" / "abcd").write_text("words")
    (model / "a" / "vocab.txt").symlink_to("../../../blobs/abcd")
    (model / "same.txt").symlink_to("a/vocab.txt")
    write_sentence_transformer(fold, model, tmp_path / "out")
    for name in ("a/vocab.txt", "same.txt"):
        assert (tmp_path / "out" / name).read_text() == "words"
        assert not (tmp_path / "out" / name).is_symlink()
    with pytest.raises(FileError, match="exists already"):
        write_sentence_transformer(fold, model, tmp_path / "out")
