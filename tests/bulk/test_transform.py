from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import Encoder
from nearfold.bulk.apply import apply
from nearfold.errors import FileError, NearfoldError, NearfoldWarning
from nearfold.io.held import held_rows
from nearfold.io.vectors import open_source


@pytest.fixture
def encoder(rng: np.random.Generator) -> Encoder:
    return Encoder(rng.standard_normal((3, 8)).astype(np.float32))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".arrow"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_many_chunks_make_one_file(
    suffix: str,
    dtype: str,
    encoder: Encoder,
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nearfold.io.vectors._CHUNK_BYTES", 1)
    X = rng.standard_normal((1000, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    written = apply(encoder, open_source(tmp_path / "x.npy"), tmp_path / f"z{suffix}", dtype=dtype)
    assert written == (1000, 1, 1, ())
    np.testing.assert_allclose(held_rows(tmp_path / f"z{suffix}"), X @ encoder.weight.T, rtol=2e-3, atol=2e-3)
    assert open_source(tmp_path / f"z{suffix}").layout.dtype == np.dtype(dtype)


def test_other_columns_ride_along(encoder: Encoder, rng: np.random.Generator, tmp_path: Path) -> None:
    X = rng.standard_normal((10, 8)).astype(np.float32)
    table = pa.table(
        {"id": range(10), "v": pa.array(list(X), pa.list_(pa.float32())), "text": list("abcdefghij")}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    apply(encoder, open_source(tmp_path / "x.parquet"), tmp_path / "z.parquet")
    folded = pq.read_table(tmp_path / "z.parquet")
    assert folded.column("id").to_pylist() == list(range(10))
    assert folded.column("text").to_pylist() == list("abcdefghij")
    assert folded.schema.field("v").type == pa.list_(pa.float32(), 3)
    with pytest.warns(NearfoldWarning, match="id, text"):
        apply(encoder, open_source(tmp_path / "x.parquet"), tmp_path / "z.npy")


def test_bad_input_leaves_nothing(encoder: Encoder, tmp_path: Path) -> None:
    X = np.ones((10, 8), np.float32)
    X[7, 3] = np.nan
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "narrow.npy", X[:, :5])
    before = set(tmp_path.iterdir())
    with pytest.raises(NearfoldError, match=r"x\.npy holds NaN.*row 7, column 3"):
        apply(encoder, open_source(tmp_path / "x.npy"), tmp_path / "z.npy")
    with pytest.raises(NearfoldError, match="5 dimensions, the encoder takes 8"):
        apply(encoder, open_source(tmp_path / "narrow.npy"), tmp_path / "z.npy")
    with pytest.raises(FileError, match="is the input itself"):
        apply(encoder, open_source(tmp_path / "x.npy"), tmp_path / "x.npy")
    assert set(tmp_path.iterdir()) == before
