"""Files that earlier versions wrote are read, for always: one folder below `kept/` a version.

`python -m tests.test_kept_files` writes that of this version, once: a folder that is there is never written
again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from nearfold import Codec, Encoder, MLPEncoder, NearFold, SearchIndex, load, load_sample
from nearfold.bulk.apply import apply
from nearfold.bulk.update import update
from nearfold.codecs.fitting import CodecFitter
from nearfold.io.held import held_rows
from nearfold.io.vectors import open_source
from nearfold.scan.checkpoint import ScanCheckpoint
from nearfold.version import __version__

KEPT = Path(__file__).with_name("kept")
VERSIONS = sorted(path.name for path in KEPT.iterdir()) if KEPT.exists() else []

CODECS = {
    "sq8": "NearFold8,SQ8",
    "aq": "NearFold8,AQ2",
    "opq": "OPQ2_8",
    "rabitq": "RaBitQ1",
    "f16": "F16",
}


def vectors(rows: slice) -> np.ndarray:
    return load_sample().vectors[rows, :16]


@pytest.fixture(params=VERSIONS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of a version's folder, which commands may write in."""
    copy: Path = tmp_path / "kept"
    shutil.copytree(KEPT / request.param, copy)
    return copy


def test_each_version_has_its_files() -> None:
    assert __version__.rpartition(".")[0] in VERSIONS


@pytest.mark.parametrize("name", ["encoder", "network"])
def test_folds(kept: Path, name: str) -> None:
    fold = load(kept / f"{name}.safetensors")
    expected = np.load(kept / f"{name}.npy")
    np.testing.assert_allclose(fold.transform(vectors(slice(400, 410))), expected, rtol=1e-5, atol=1e-6)
    assert (fold.method, fold.metric) == ("nearfold" if name == "encoder" else "", "cosine")


@pytest.mark.parametrize("name", CODECS)
def test_codecs(kept: Path, name: str) -> None:
    codec = Codec.load(kept / f"{name}.safetensors")
    assert str(codec.spec) == CODECS[name]
    codes = codec.encode(vectors(slice(400, 410)))
    expected = np.load(kept / f"{name}.npy")
    assert codes.shape == expected.shape
    # Rounding differs between processors: the last bits of stored floats, and values at the edge of a code.
    now, then = codec.decode(codes), codec.decode(expected)
    far = np.linalg.norm(now - then, axis=1) > 0.02 * np.linalg.norm(then, axis=1)
    assert far.mean() <= 0.1


def test_an_index(kept: Path) -> None:
    found = SearchIndex.load(kept / "index").search(vectors(slice(400, 410)).astype(np.float32), 5)
    expected = np.load(kept / "index.npy")
    assert (found.ids == expected).mean() > 0.9


def test_a_scan_that_is_updated(kept: Path, tmp_path: Path) -> None:
    state = ScanCheckpoint.load(kept / "scan.safetensors")
    assert (state.rows, state.done) == (200, 200)
    np.save(tmp_path / "more.npy", vectors(slice(400, 500)))
    updated = update(Encoder.load(kept / "scanned.safetensors"), state, open_source(tmp_path / "more.npy"))
    assert updated.checkpoint.rows == 300


def test_a_folded_folder(kept: Path) -> None:
    folded = held_rows(kept / "folded")
    expected = load(kept / "encoder.safetensors").transform(np.load(kept / "shards" / "0.npy"))
    np.testing.assert_allclose(folded, expected, rtol=1e-5, atol=1e-6)


def write(folder: Path) -> None:
    """Write every kind of file, and what comes of it."""
    folder.mkdir(parents=True)
    base, asked = vectors(slice(400)).astype(np.float32), vectors(slice(400, 410)).astype(np.float32)
    network = MLPEncoder([(base[:8], base[8, :8]), (base[10:14, :8], base[9, :4])], metric="cosine")
    for name, fold in (("encoder", NearFold(4, n_steps=40).fit(base).encoder_), ("network", network)):
        fold.save(folder / f"{name}.safetensors")
        np.save(folder / f"{name}.npy", fold.transform(asked))
    fitter = CodecFitter(base, budget=0.1)
    for name, spec in CODECS.items():
        codec = fitter.fit(spec)
        codec.save(folder / f"{name}.safetensors")
        np.save(folder / f"{name}.npy", codec.encode(asked))
    index = SearchIndex.build(fitter.fit("NearFold8,SQ8"), base, certify=True)
    index.remove([5])
    index.save(folder / "index")
    np.save(folder / "index.npy", index.search(asked, 5).ids)
    np.save(folder / "base.npy", base[:200].astype(np.float16))
    estimator = NearFold(4, n_steps=30, n_anchors=50)
    estimator.fit(open_source(folder / "base.npy"), checkpoint=folder / "scan.safetensors").encoder_.save(
        folder / "scanned.safetensors"
    )
    (folder / "shards").mkdir()
    np.save(folder / "shards" / "0.npy", vectors(slice(100)))
    apply(load(folder / "encoder.safetensors"), folder / "shards", folder / "folded")


if __name__ == "__main__":
    write(KEPT / __version__.rpartition(".")[0])
