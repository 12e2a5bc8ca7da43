"""Codecs as faiss indexes: plain faiss finds in the file what the codec's own index finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Codec
from nearfold._utils.arrays import METRICS, Metric
from nearfold.codecs.quantizers.base import filled
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.integrations.codec_faiss import add_codes, codec_index, takes_vectors, write_codec_faiss

from .conftest import CodecOf

Vectors = npt.NDArray[np.float32]

SHARED = (
    "NearFold32,F32",
    "F16",
    "SQ8",
    "PCA30,SQ6",
    "NearFold32,SQ4",
    "PQ8",
    "PCA32,OPQ4_16",
    "NearFold32,Binary",
    "RaBitQ1",
    "PCA32,RaBitQ2",
)
DUAL = ("NearFold32,AQ6", "PCA30,AQ5", "NearFold32,RSQ1", "RSQ2", "NearFold32,RSQ4")


def own_search(codec: Codec, base: Vectors, queries: Vectors, k: int) -> tuple[Vectors, Any]:
    """Search as the codec itself does: its index, with its codes and its queries."""
    scores, ids = filled(codec.index(), codec.encode(base)).search(codec.prepare_queries(queries), k)
    return scores, ids


def check_alike(found: tuple[Vectors, Any], wanted: tuple[Vectors, Any]) -> None:
    """Scores are the same but for rounding, and ids are but where scores are nearly equal."""
    tolerance = 1e-5 * max(1.0, float(np.abs(wanted[0]).max()))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=tolerance)
    for f_ids, w_ids, scores in zip(found[1], wanted[1], wanted[0], strict=True):
        # Whatever is not on both sides must tie with the last place.
        odd = np.flatnonzero(~np.isin(w_ids, f_ids))
        np.testing.assert_allclose(scores[odd], scores[-1], rtol=1e-4, atol=tolerance)
    assert (found[1] == wanted[1]).mean() > 0.97


@pytest.mark.parametrize("spec", SHARED + DUAL)
@pytest.mark.parametrize("metric", METRICS)
def test_plain_faiss_searches_as_the_codec_does(
    spec: str, metric: Metric, base: Vectors, codec_of: CodecOf, tmp_path: Path
) -> None:
    codec = codec_of(spec, metric)
    write_codec_faiss(codec, tmp_path / "codec.faiss", base=base[:900])
    index = faiss.read_index(str(tmp_path / "codec.faiss"))
    assert (index.ntotal, index.d) == (900, 64)
    check_alike(index.search(base[900:], 10), own_search(codec, base[:900], base[900:], 10))


@pytest.mark.parametrize("spec", SHARED)
@pytest.mark.parametrize("metric", METRICS)
def test_plain_faiss_encodes_as_codecs_with_one_map_do(
    spec: str, metric: Metric, base: Vectors, codec_of: CodecOf, tmp_path: Path
) -> None:
    codec = codec_of(spec, metric)
    assert takes_vectors(codec)
    write_codec_faiss(codec, tmp_path / "codec.faiss", base=base[:400])
    index = faiss.read_index(str(tmp_path / "codec.faiss"))
    index.add(base[400:900])
    scores, ids = index.search(base[900:], 10)
    wanted = own_search(codec, base[:900], base[900:], 10)
    # A number at the border between two steps may be rounded to either: few codes, by one step each.
    assert (ids == wanted[1]).mean() > 0.97
    np.testing.assert_allclose(np.median(np.abs(scores - wanted[0])), 0, atol=1e-5)


@pytest.mark.parametrize("spec", DUAL)
def test_codes_are_added_where_queries_have_their_own_map(
    spec: str, base: Vectors, codec_of: CodecOf, tmp_path: Path
) -> None:
    codec = codec_of(spec, "cosine")
    assert not takes_vectors(codec)
    codes = codec.encode(base[:900])
    np.save(tmp_path / "codes.npy", codes[:500])
    write_codec_faiss(codec, tmp_path / "codec.faiss", codes=tmp_path / "codes.npy")
    index = faiss.read_index(str(tmp_path / "codec.faiss"))
    faiss.downcast_index(index.index).add_sa_codes(codes[500:])
    index.ntotal = index.index.ntotal
    check_alike(index.search(base[900:], 10), own_search(codec, base[:900], base[900:], 10))
    # The same by the function, from an array.
    again = codec_index(codec)
    add_codes(again, codec, codes)
    assert np.array_equal(again.search(base[900:], 5)[1], index.search(base[900:], 5)[1])


def test_the_length_of_a_query_changes_no_ranking_under_cosine(base: Vectors, codec_of: CodecOf) -> None:
    codec = codec_of("NearFold32,AQ6", "cosine")
    index = codec_index(codec)
    add_codes(index, codec, codec.encode(base))
    check_alike(index.search(100 * base[:50], 5), index.search(base[:50], 5))


@pytest.mark.parametrize("spec", ["F16", "SQ8", "NearFold32,SQ4"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_graph_finds_nearly_all(
    spec: str, metric: Metric, base: Vectors, codec_of: CodecOf, tmp_path: Path
) -> None:
    codec = codec_of(spec, metric)
    write_codec_faiss(codec, tmp_path / "codec.faiss", "HNSW16", base=base[:600])
    index = faiss.read_index(str(tmp_path / "codec.faiss"))
    index.add(base[600:900])
    faiss.downcast_index(index.index).hnsw.efSearch = 300
    found = index.search(base[900:], 10)[1]
    wanted = own_search(codec, base[:900], base[900:], 10)[1]
    shared = [len(np.intersect1d(a, b)) / 10 for a, b in zip(found, wanted, strict=True)]
    assert np.mean(shared) > 0.97


def test_what_cannot_be_is_refused_and_nothing_is_written(
    base: Vectors, codec_of: CodecOf, network_codec: Codec, tmp_path: Path
) -> None:
    scalar, additive = codec_of("SQ8", "l2"), codec_of("NearFold32,AQ6", "cosine")
    codes, out = scalar.encode(base), tmp_path / "codec.faiss"
    zero = base.copy()
    zero[7] = 0
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/zero.npy", zero)
    bad = base.copy()
    bad[3, 5] = np.nan
    for error, said, codec, factory, given in (
        (ParameterError, "network", network_codec, "Flat", {}),
        (ParameterError, "IVF8", scalar, "IVF8", {}),
        (ParameterError, "HNSW1'", scalar, "HNSW1", {}),
        (ParameterError, "AQ6", additive, "HNSW8", {}),
        (ParameterError, "PQ8", codec_of("PQ8", "l2"), "HNSW8", {}),
        (ParameterError, "RaBitQ1", codec_of("RaBitQ1", "l2"), "HNSW8", {}),
        (ParameterError, "both", scalar, "Flat", {"base": base, "codes": codes}),
        (ParameterError, "codes alone", scalar, "HNSW8", {"codes": codes}),
        (DataError, "64 dimensions|32 dimensions", scalar, "Flat", {"base": base[:, :32]}),
        (DataError, "row 3", scalar, "Flat", {"base": bad}),
        (DataError, r"zero.npy.*row 7", additive, "Flat", {"base": tmp_path / "in/zero.npy"}),
        (DataError, "float32.*uint8", scalar, "Flat", {"codes": base}),
        (DataError, "32 numbers.*64", scalar, "Flat", {"codes": codes[:, :32]}),
        (DataError, "not finite", codec_of("F16", "l2"), "Flat", {"codes": np.full((2, 128), 255, np.uint8)}),
        (FileError, "none.npy", scalar, "Flat", {"codes": tmp_path / "none.npy"}),
        (FileError, "none.npy", scalar, "Flat", {"base": tmp_path / "none.npy"}),
    ):
        with pytest.raises(error, match=said):
            write_codec_faiss(codec, out, factory, **given)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
