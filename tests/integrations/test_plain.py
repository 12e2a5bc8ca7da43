"""Folds as plain numbers, read by Python and by JavaScript."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder, MLPEncoder
from nearfold.errors import ParameterError
from nearfold.folds.fold import Fold
from nearfold.integrations.plain import write_json, write_npy

Vectors = npt.NDArray[np.float32]
EXAMPLE = Path(__file__).parents[2] / "examples" / "fold.mjs"


def test_json_holds_every_bit(biased: Encoder, tmp_path: Path) -> None:
    write_json(biased, tmp_path / "fold.json")
    read = json.loads((tmp_path / "fold.json").read_text())
    assert (read["metric"], read["n_features"], read["n_components"]) == ("l2", 64, 16)
    assert np.array_equal(np.array(read["weight"], np.float32), biased.weight)
    assert np.array_equal(np.array(read["bias"], np.float32), biased.bias)


@pytest.mark.parametrize("kind", ["fold", "biased"])
def test_javascript_folds_alike(
    kind: str, base: Vectors, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    fold: Fold = request.getfixturevalue(kind)
    write_json(fold, tmp_path / "fold.json")
    (tmp_path / "vectors.json").write_text(json.dumps(base[:5].tolist()))
    command = [node, str(EXAMPLE), str(tmp_path / "fold.json"), str(tmp_path / "vectors.json")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(json.loads(said), fold.transform(base[:5]), atol=1e-5)


def test_npy_is_the_weight(fold: Encoder, tmp_path: Path) -> None:
    write_npy(fold, tmp_path / "fold.npy")
    assert np.array_equal(np.load(tmp_path / "fold.npy"), fold.weight)


def test_what_has_no_place_is_refused(biased: Encoder, network: MLPEncoder, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="bias"):
        write_npy(biased, tmp_path / "fold.npy")
    with pytest.raises(ParameterError, match="network"):
        write_json(network, tmp_path / "fold.json")
    assert not list(tmp_path.iterdir())
