"""Files of folds and codecs that are well-formed, whose digest is right, and that mean nothing."""

# Each change is given all of a file, and looks at what it changes.
# ruff: noqa: ARG005

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nearfold import Codec, Encoder, MLPEncoder, load
from nearfold.codecs.codec import load_any
from nearfold.codecs.fitting import CodecFitter
from nearfold.codecs.verification import verify_file
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.evaluation.drift import drift
from nearfold.folds.fold import read_safetensors
from nearfold.folds.origin import DIGEST, sealed

Tensors = dict[str, Any]
Change = Callable[[Tensors, dict[str, Any]], object]

SPECS = (
    "NearFold8,SQ8",
    "NearFold8,SQ4",
    "PQ4",
    "OPQ4_8",
    "Binary",
    "RaBitQ2",
    "F16",
    "NearFold8,RSQ2",
    "NearFold8,AQ4",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a file of each kind."""
    folder = tmp_path_factory.mktemp("sound")
    X = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    stats = [{"rows": 500, "recall": 0.5, "energy": 0.9, "loss": 0.1}]
    Encoder(X[:4], X[0, :4], method="made", facts={"rows": 9, "drift_stats": stats}).save(folder / "encoder")
    layers = [(X[:8], X[0, :8]), (X[:4, :8], X[1, :4])]
    MLPEncoder(layers, skip=X[4:8], method="made").save(folder / "network")
    for spec in SPECS:
        CodecFitter(X, budget=0.05).fit(spec).save(folder / spec)
    CodecFitter(X, metric="l2", budget=0.05).fit("AQ4").save(folder / "AQ4 l2")
    return folder


def written(source: Path, out: Path, change: Change | None = None) -> Path:
    """Write a file again with something changed, and its digest made anew."""
    metadata, tensors = read_safetensors(source)
    said: dict[str, Any] = {k: v for k, v in metadata.items() if k != DIGEST}
    said |= {key: json.loads(metadata[key]) for key in ("parameters", "facts")}
    if change is not None:
        change(tensors, said)
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(tensors, out, sealed(tensors, texts))
    return out


def put(name: str, value: Any) -> Change:
    """Change one number of a tensor."""

    def change(tensors: Tensors, said: dict[str, Any]) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name].flat[-1] = value

    return change


def shaped(name: str, shape: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda tensors, said: tensors.update({name: shape(tensors[name])})


def fact(value: Any) -> Change:
    return lambda tensors, said: said.update(facts=value)


def sampled(**values: Any) -> Change:
    entry = {"rows": 500, "recall": 0.5, "energy": 0.9, "loss": 0.1, **values}
    return fact({"drift_stats": [entry]})


def setting(**values: Any) -> Change:
    return lambda tensors, said: said["parameters"].update(values)


def inner(**values: Any) -> Change:
    return lambda tensors, said: said["parameters"]["fold"].update(values)


def add(name: str) -> Change:
    return lambda tensors, said: tensors.update({name: np.ones(3, np.float32)})


def drop(name: str) -> Change:
    return lambda tensors, said: tensors.pop(name)


DEEP = '{"a":' * 5_000 + "1" + "}" * 5_000

FOLDS: list[tuple[str, str, Change]] = [
    ("encoder", "NaN weight", put("weight", np.nan)),
    ("encoder", "infinite bias", put("bias", np.inf)),
    ("encoder", "bias of another length", shaped("bias", lambda t: t[:3])),
    ("encoder", "bias of two dimensions", shaped("bias", lambda t: t[None])),
    ("encoder", "float16", shaped("weight", lambda t: t.astype(np.float16))),
    ("encoder", "integers", shaped("weight", lambda t: t.astype(np.int32))),
    ("encoder", "no rows", shaped("weight", lambda t: t[:0])),
    ("encoder", "a tensor more", add("other")),
    ("encoder", "no weight", drop("weight")),
    ("encoder", "unknown metric", lambda t, s: s.update(metric="hamming")),
    ("encoder", "no metric", lambda t, s: s.pop("metric")),
    ("encoder", "a method without end", lambda t, s: s.update(method="a" * 10_000)),
    ("encoder", "another kind", lambda t, s: s.update(format="nearfold.mlp")),
    ("encoder", "a version of odd digits", lambda t, s: s.update(format_version="\u00b2")),
    ("encoder", "a version without end", lambda t, s: s.update(format_version="9" * 5_000)),
    ("encoder", "facts as a list", fact([1])),
    ("encoder", "facts as text", fact('"x"')),
    ("encoder", "facts too deep", fact(DEEP)),
    ("encoder", "a fact twice", fact('{"a": 1, "a": 2}')),
    ("encoder", "a NaN fact", fact('{"a": NaN}')),
    ("encoder", "an infinite fact", fact('{"a": 1e999}')),
    ("encoder", "a giant integer", fact({"a": 10**30})),
    ("encoder", "an endless integer", fact('{"a": ' + "9" * 10_000 + "}")),
    ("encoder", "too many facts", fact({str(i): [0] * 1_000 for i in range(200)})),
    ("encoder", "rows as text", fact({"rows": "many"})),
    ("encoder", "negative rows", fact({"rows": -1})),
    ("encoder", "rows as truth", fact({"rows": True})),
    ("encoder", "rows as a fraction", fact({"rows": 1.5})),
    ("encoder", "a fingerprint as number", fact({"fingerprint": 5})),
    ("encoder", "drift statistics as a map", fact({"drift_stats": {}})),
    ("encoder", "drift statistics of numbers", fact({"drift_stats": [5]})),
    ("encoder", "drift statistics without rows", fact({"drift_stats": [{"recall": 0.5}]})),
    ("encoder", "drift statistics of no rows", sampled(rows=0)),
    ("encoder", "recall@10 of 7", sampled(recall=7.0)),
    ("encoder", "recall@10 as text", sampled(recall="0.5")),
    ("encoder", "energy of 1e30", sampled(energy=1e30)),
    ("encoder", "a negative loss", sampled(loss=-3.0)),
    ("network", "NaN skip", put("skip", np.nan)),
    ("network", "skip of another shape", shaped("skip", lambda t: t[:2])),
    ("network", "a layer missing", drop("layers.1.bias")),
    ("network", "a layer more", add("layers.2.bias")),
    ("network", "layers that don't fit", shaped("layers.1.weight", lambda t: t[:, :5])),
    ("network", "an infinite layer", put("layers.0.weight", -np.inf)),
]

CODECS: list[tuple[str, str, Change]] = [
    ("NearFold8,SQ8", "NaN ranges", put("quantizer.ranges", np.nan)),
    ("NearFold8,SQ8", "negative ranges", put("quantizer.ranges", -1.0)),
    ("NearFold8,SQ8", "ranges cut", shaped("quantizer.ranges", lambda t: t[:-1])),
    ("NearFold8,SQ8", "NaN fold", put("fold.weight", np.nan)),
    ("NearFold8,SQ8", "a fold of other width", shaped("fold.weight", lambda t: t[:, :9])),
    ("NearFold8,SQ8", "a fold to another width", shaped("fold.weight", lambda t: t[:5])),
    ("NearFold8,SQ8", "an absurd name", setting(quantizer=["scalar", "SQ999999"])),
    ("NearFold8,SQ8", "an absurd spec", lambda t, s: s.update(method="NearFold8,SQ999999")),
    ("NearFold8,SQ8", "another quantiser's name", setting(quantizer=["scalar", "SQ4"])),
    ("NearFold8,SQ8", "another kind of quantiser", setting(quantizer=["product", "SQ8"])),
    ("NearFold8,SQ8", "no kind of quantiser", setting(quantizer=["magic", "SQ8"])),
    ("NearFold8,SQ8", "a kind alone", setting(quantizer=["scalar"])),
    ("NearFold8,SQ8", "a kind as text", setting(quantizer="scalar")),
    ("NearFold8,SQ8", "a width as text", setting(width="8")),
    ("NearFold8,SQ8", "a width as truth", setting(width=True)),
    ("NearFold8,SQ8", "no width", setting(width=0)),
    ("NearFold8,SQ8", "a width of 2^40", setting(width=1 << 40)),
    ("NearFold8,SQ8", "other features", setting(n_features=15)),
    ("NearFold8,SQ8", "features as a fraction", setting(n_features=16.0)),
    ("NearFold8,SQ8", "a fold as text", setting(fold="x")),
    ("NearFold8,SQ8", "no fold", setting(fold=None)),
    ("NearFold8,SQ8", "a fold of another kind", inner(format="nearfold.codec")),
    ("NearFold8,SQ8", "a fold for another metric", inner(metric="l2")),
    ("NearFold8,SQ8", "a fold for no metric", inner(metric="hamming")),
    ("NearFold8,SQ8", "a fold with odd facts", inner(facts={"rows": -2})),
    ("NearFold8,SQ8", "a fold with a list of parameters", inner(parameters=[1])),
    ("NearFold8,SQ8", "unknown metric", lambda t, s: s.update(metric="hamming")),
    ("NearFold8,SQ8", "odd facts", fact({"rows": "many"})),
    ("NearFold8,SQ8", "a tensor of no part", add("other")),
    ("NearFold8,SQ8", "a tensor of no quantiser", add("quantizer.other")),
    ("NearFold8,SQ8", "a tensor of no projection", add("projection.other")),
    ("NearFold8,SQ8", "a tensor of no fold", add("fold.other")),
    ("NearFold8,SQ8", "bfloat", shaped("quantizer.ranges", lambda t: t.astype(np.float16))),
    ("NearFold8,SQ4", "infinite rotation", put("projection.rotation", np.inf)),
    ("NearFold8,SQ4", "a rotation that stretches", put("projection.rotation", 9.0)),
    ("NearFold8,SQ4", "a rotation of another width", shaped("projection.rotation", lambda t: t[:, :7])),
    ("NearFold8,SQ4", "a rotation of one dimension", shaped("projection.rotation", lambda t: t[0])),
    ("PQ4", "NaN codebooks", put("quantizer.codebooks", np.nan)),
    ("PQ4", "codebooks cut", shaped("quantizer.codebooks", lambda t: t[:, :255])),
    ("PQ4", "codebooks dealt otherwise", shaped("quantizer.codebooks", lambda t: t.reshape(2, 256, 8))),
    ("PQ4", "no codebooks", drop("quantizer.codebooks")),
    ("PQ4", "an absurd name", setting(quantizer=["product", "PQ999999"])),
    ("PQ4", "bytes that don't divide", setting(quantizer=["product", "PQ3"])),
    ("PQ4", "no bytes", setting(quantizer=["product", "PQ0"])),
    ("OPQ4_8", "a rotation to more", shaped("projection.rotation", lambda t: np.tile(t, (4, 1)))),
    ("Binary", "words of another length", shaped("quantizer.codebooks", lambda t: t[:, :, :4])),
    ("RaBitQ2", "NaN centre", put("quantizer.center", np.nan)),
    ("RaBitQ2", "a centre beyond float32's squares", put("quantizer.center", 1e20)),
    ("RaBitQ2", "a centre cut", shaped("quantizer.center", lambda t: t[:-1])),
    ("RaBitQ2", "a score of 7", put("quantizer.l2", 7.0)),
    ("RaBitQ2", "the other score", put("quantizer.l2", 1.0)),
    ("RaBitQ2", "no score", drop("quantizer.l2")),
    ("RaBitQ2", "an absurd name", setting(quantizer=["rabitq", "RaBitQ99"])),
    ("F16", "a tensor that it has not", add("quantizer.ranges")),
    ("F16", "another width", setting(width=12)),
    ("F16", "another name", setting(quantizer=["floats", "F8"])),
    ("NearFold8,RSQ2", "NaN levels", put("quantizer.levels", np.nan)),
    ("NearFold8,RSQ2", "levels that fall", shaped("quantizer.levels", lambda t: t[:, ::-1])),
    ("NearFold8,RSQ2", "levels of fewer dimensions", shaped("quantizer.levels", lambda t: t[:4])),
    ("NearFold8,RSQ2", "fewer levels", shaped("quantizer.levels", lambda t: t[:, :2])),
    ("NearFold8,RSQ2", "no levels", drop("quantizer.levels")),
    ("NearFold8,RSQ2", "the dimension of norms", shaped("quantizer.levels", lambda t: t[:7])),
    ("NearFold8,RSQ2", "another name", setting(quantizer=["rotated", "RSQ3"])),
    ("NearFold8,AQ4", "NaN codebooks", put("quantizer.codebooks", np.nan)),
    ("NearFold8,AQ4", "fewer codebooks", shaped("quantizer.codebooks", lambda t: t[:, :-1])),
    ("NearFold8,AQ4", "a map cut", shaped("projection.query_weight", lambda t: t[:-1])),
    ("NearFold8,AQ4", "infinite queries", put("projection.query_weight", np.inf)),
    ("NearFold8,AQ4", "a centre that it has not", add("projection.center")),
    ("NearFold8,AQ4", "other features", setting(n_features=15)),
    ("AQ4 l2", "no centre", drop("projection.center")),
    ("AQ4 l2", "a scale of nothing", put("projection.scale", 0.0)),
    ("AQ4 l2", "two scales", shaped("projection.scale", lambda t: np.tile(t, 2))),
    ("AQ4 l2", "a centre of another width", shaped("projection.center", lambda t: t[:-1])),
]


@pytest.mark.parametrize(("name", "what", "change"), FOLDS + CODECS)
def test_what_means_nothing_is_refused(
    name: str, what: str, change: Change, sound: Path, tmp_path: Path
) -> None:
    path = written(sound / name, tmp_path / "odd.safetensors", change)
    with pytest.raises(FileError, match=r"odd\.safetensors"):
        load_any(path)
    with pytest.raises(FileError, match=r"odd\.safetensors"):
        verify_file(path)


@pytest.mark.parametrize("name", ["encoder", "network", *SPECS, "AQ4 l2"])
def test_sound_files_are_read(name: str, sound: Path, tmp_path: Path) -> None:
    X = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    before, again = load_any(sound / name), load_any(written(sound / name, tmp_path / "same"))
    np.testing.assert_array_equal(before.transform(X), again.transform(X)) if name in (
        "encoder",
        "network",
    ) else np.testing.assert_array_equal(before.encode(X), again.encode(X))  # type: ignore[union-attr]
    assert verify_file(sound / name).sealed


@pytest.mark.parametrize("name", ["encoder", "PQ4"])
def test_content_that_changed_is_noticed(name: str, sound: Path, tmp_path: Path) -> None:
    data = bytearray((sound / name).read_bytes())
    # A number in the last tensor: as good a number as any.
    data[-2] ^= 1
    path = tmp_path / "changed.safetensors"
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"changed\.safetensors: damaged: its content has changed"):
        load_any(path)


def test_a_file_without_a_digest_is_read(sound: Path, tmp_path: Path) -> None:
    metadata, tensors = read_safetensors(sound / "encoder")
    metadata.pop(DIGEST)
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    assert verify_file(tmp_path / "old.safetensors")[3:] == (False, False)


def test_a_card_of_another_file_is_noticed(tmp_path: Path) -> None:
    Encoder(np.eye(2, 3, dtype=np.float32)).save(tmp_path / "a.safetensors")
    assert verify_file(tmp_path / "a.safetensors")[3:] == (True, True)
    Encoder(np.eye(1, 3, dtype=np.float32)).save(tmp_path / "a.safetensors", card=False)
    with pytest.raises(FileError, match=r"a\.safetensors: is not the file that a\.card\.md was written for"):
        verify_file(tmp_path / "a.safetensors")


def test_statistics_of_odd_samples_are_not_compared(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((600, 3)).astype(np.float32)
    fold = Encoder(np.eye(2, 3, dtype=np.float32), facts={"drift_stats": [{"rows": 3, "recall": 0.5}]})
    with pytest.raises(FileError, match="no drift statistics of its training rows"):
        drift(fold, rows)


@pytest.mark.parametrize("values", [{"a": object()}, {1: 2}, [1], {"a": 1 << 70}, {"a": "x" * 200_000}])
def test_what_a_file_could_not_hold_is_refused_at_once(values: Any) -> None:
    for name in ("facts", "parameters"):
        with pytest.raises(ParameterError, match=name):
            Encoder(np.eye(2, 3, dtype=np.float32), **{name: values})


def test_numbers_that_are_none_are_kept_as_none(tmp_path: Path) -> None:
    fold = Encoder(
        np.eye(2, 3, dtype=np.float32), facts={"loss": float("nan"), "rates": [np.float32(np.inf), 1]}
    )
    fold.with_facts(more=np.arange(2)).save(tmp_path / "f.safetensors")
    assert load(tmp_path / "f.safetensors").facts == {"loss": None, "rates": [None, 1], "more": [0, 1]}


@pytest.mark.parametrize("name", ["RaBitQ2", "F16"])
def test_vectors_whose_squares_overflow_are_refused_before_faiss_has_them(
    name: str, sound: Path, tmp_path: Path
) -> None:
    def inner_products(tensors: Tensors, said: dict[str, Any]) -> None:
        said["metric"] = "ip"

    codec = Codec.load(written(sound / name, tmp_path / "ip", inner_products))
    with pytest.raises(DataError, match="beyond float32"):
        codec.encode(np.full((2, 16), 1e20, np.float32))


def test_a_codec_is_told_from_an_encoder(sound: Path) -> None:
    with pytest.raises(FileError, match="not a codec"):
        Codec.load(sound / "encoder")
    with pytest.raises(DataError):
        Codec.load(sound / "PQ4").encode(np.zeros((1, 3), np.float32))
