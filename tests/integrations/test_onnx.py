"""ONNX models give what folds give, in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from nearfold import Encoder, MLPEncoder
from nearfold._utils.arrays import normalize_rows
from nearfold.errors import MissingExtraError, ParameterError
from nearfold.folds.fold import Fold
from nearfold.integrations.onnx import onnx_model, write_onnx

Vectors = npt.NDArray[np.float32]


def run(path: Path, vectors: Vectors) -> Vectors:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (folded,) = session.run(["folded"], {"vectors": vectors})
    return np.asarray(folded)


@pytest.mark.parametrize("kind", ["fold", "biased", "network"])
@pytest.mark.parametrize("normalize", [None, False, True])
@pytest.mark.parametrize("half", [False, True])
def test_the_runtime_gives_what_the_fold_gives(
    kind: str,
    normalize: bool | None,
    half: bool,
    base: Vectors,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    fold: Fold = request.getfixturevalue(kind)
    write_onnx(fold, tmp_path / "fold.onnx", normalize=normalize, half=half)
    wanted = fold.transform(base)
    if normalize or (normalize is None and fold.metric == "cosine"):
        wanted = normalize_rows(wanted)
    for batch in (1, 7, len(base)):
        folded = run(tmp_path / "fold.onnx", base[:batch])
        assert folded.dtype == (np.float16 if half else np.float32)
        np.testing.assert_allclose(folded, wanted[:batch], atol=3e-3 if half else 1e-5)


def test_a_zero_row_stays_zero(fold: Encoder, tmp_path: Path) -> None:
    write_onnx(fold, tmp_path / "fold.onnx", normalize=True)
    assert not run(tmp_path / "fold.onnx", np.zeros((2, 64), np.float32)).any()


def test_weights_beyond_float16_are_refused(fold: Encoder) -> None:
    with pytest.raises(ParameterError, match="float16"):
        onnx_model(Encoder(fold.weight * 1e7), half=True)


def test_without_onnx_the_extra_is_named(network: MLPEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"nearfold\[onnx\]"):
        onnx_model(network)
