"""faiss indexes with a fold in front, read by plain faiss."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder, MLPEncoder
from nearfold.errors import ParameterError
from nearfold.folds.fold import Fold
from nearfold.integrations.faiss import faiss_index, faiss_transforms, write_faiss
from nearfold.scan.exact import search

Vectors = npt.NDArray[np.float32]


@pytest.mark.parametrize("kind", ["fold", "biased"])
def test_plain_faiss_searches_folded_vectors(
    kind: str, base: Vectors, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fold: Fold = request.getfixturevalue(kind)
    write_faiss(fold, tmp_path / "fold.faiss")
    index = faiss.read_index(str(tmp_path / "fold.faiss"))
    index.add(base[:900])
    found = index.search(base[900:], 10)[1]
    wanted = search(fold.transform(base[:900]), fold.transform(base[900:]), 10, fold.metric)
    assert (found == wanted).mean() > 0.999
    folded = index.chain.at(0).apply(base)
    np.testing.assert_allclose(folded, fold.transform(base), atol=1e-5)


def test_any_inner_index_can_hold_folded_vectors(fold: Encoder, base: Vectors) -> None:
    index = faiss_index(fold, "IVF8,SQ8")
    index.train(base)
    index.add(base)
    faiss.extract_index_ivf(index).nprobe = 8
    assert (index.search(base, 1)[1][:, 0] == np.arange(len(base))).mean() > 0.97


def test_norms_are_1_where_cosine_is_searched(fold: Encoder, biased: Encoder) -> None:
    assert len(faiss_transforms(fold)) == 2
    assert len(faiss_transforms(biased)) == len(faiss_transforms(fold, normalize=False)) == 1


def test_what_cannot_be_is_refused(fold: Encoder, network: MLPEncoder) -> None:
    with pytest.raises(ParameterError, match="ONNX"):
        faiss_index(network)
    with pytest.raises(ParameterError, match="Nonsense"):
        faiss_index(fold, "Nonsense")
