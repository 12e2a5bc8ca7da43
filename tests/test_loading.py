"""One loader for everything that nearfold wrote; each class's own refuses the other kinds by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nearfold as nf
from nearfold.errors import FileError

LOADERS = {
    "a linear fold": nf.Encoder,
    "a non-linear fold": nf.MLPEncoder,
    "a codec": nf.Codec,
    "the checkpoint of a scan": nf.ScanCheckpoint,
    "an index": nf.SearchIndex,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("written")
    X = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    paths = {kind: home / f"{number}" for number, kind in enumerate(LOADERS)}
    nf.NearFold(4, n_steps=2).fit(X, checkpoint=paths["the checkpoint of a scan"]).encoder_.save(
        paths["a linear fold"]
    )
    layer = np.ones((4, 8), np.float32), np.zeros(4, np.float32)
    nf.MLPEncoder((layer,)).save(paths["a non-linear fold"])
    codec = nf.fit_codec(X, "NearFold4,SQ8")
    codec.save(paths["a codec"])
    nf.SearchIndex.build(codec, X).save(paths["an index"])
    return paths


@pytest.mark.parametrize("kind", LOADERS)
def test_one_loader_reads_all(kind: str, written: dict[str, Path]) -> None:
    assert isinstance(nf.load(written[kind]), LOADERS[kind])


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("other", LOADERS)
def test_each_class_refuses_other_kinds_by_name(kind: str, other: str, written: dict[str, Path]) -> None:
    if kind == other:
        assert isinstance(LOADERS[kind].load(written[kind]), LOADERS[kind])
        return
    with pytest.raises(FileError, match=f"holds {kind}|is {kind}|is a folder"):
        LOADERS[other].load(written[kind])


def test_what_nearfold_did_not_write_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    for path in (tmp_path / "x.npy", tmp_path, tmp_path / "missing"):
        with pytest.raises(FileError, match=str(path)):
            nf.load(path)
