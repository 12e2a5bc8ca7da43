"""Codecs: names, learning, files."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Codec, Encoder, NearFold, NearfoldWarning, config_context, fit_codec, load, open_source
from nearfold._utils.arrays import Metric
from nearfold.codecs.fitting import CodecFitter, folded_images
from nearfold.codecs.least_squares import codeword_sums, fitted_codebooks
from nearfold.codecs.quantizers.base import CODEWORDS
from nearfold.codecs.quantizers.codewords import decoded
from nearfold.codecs.quantizers.product import opq_rotation
from nearfold.codecs.rotations import balanced_rotation, random_rotation
from nearfold.codecs.spec import parse_spec
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.planning.halving import judged

Vectors = npt.NDArray[np.float32]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NearFold192,OPQ48", "NearFold192,OPQ48"),
        ("pca96,sq8", "PCA96,SQ8"),
        ("RaBitQ2", "RaBitQ2"),
        ("OPQ24_96,PQ24", "OPQ24_96"),
        ("NearFold25%, aq24", "NearFold25%,AQ24"),
        ("NearFold96", "NearFold96,F32"),
        ("PCA-uncentred96,F16", "PCAUncentred96,F16"),
        ("randomgaussian32,Binary", "randomgaussian32,Binary"),
    ],
)
def test_names_are_read_and_written(text: str, said: str) -> None:
    assert str(parse_spec(text)) == said
    assert parse_spec(said) == parse_spec(text)


@pytest.mark.parametrize(
    "text", ["", ",", "SQ5", "NearFold", "Foo96,SQ8", "NearFold9,SQ8,PQ4", "PQ0", "PQ24_96", "umap8"]
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        parse_spec(text)


SPECS = [
    "SQ8",
    "NearFold32,F16",
    "NearFold32,SQ4",
    "PCA32,PQ8",
    "NearFold32,OPQ8",
    "OPQ8_32",
    "NearFold32,Binary",
    "RaBitQ1",
    "NearFold32,RSQ1",
    "RSQ2",
    "NearFold32,RSQ4",
    "NearFold32,AQ8",
    "AQ8",
]


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_every_codec_finds_neighbours_and_survives_its_file(
    sample: Vectors, metric: Metric, tmp_path: Path
) -> None:
    base, queries = sample[:1200, :64] + 0.05, sample[1200:1300, :64] + 0.05
    truth = GroundTruth.compute(base, queries, 10, metric)
    fitter = CodecFitter(base, metric=metric, budget=0.1)
    for spec in SPECS:
        codec = fitter.fit(spec)
        evaluation, _ = judged(codec, truth, 10, 50)
        # 1,200 rows: chance is below .01; the coarsest codes here have 32 bits.
        assert evaluation.recall[10].mean > 0.1, spec
        codec.save(tmp_path / "p.safetensors")
        again = Codec.load(tmp_path / "p.safetensors")
        assert (again.spec, again.metric, again.n_features) == (codec.spec, metric, 64)
        codes = codec.encode(queries)
        assert codes.shape == (100, codec.bytes_per_vector)
        assert np.array_equal(again.encode(queries), codes)
        np.testing.assert_array_equal(again.prepare_queries(queries), codec.prepare_queries(queries))
        assert np.array_equal(pickle.loads(pickle.dumps(codec)).encode(queries), codes)


def test_files_and_frames_make_the_codec_that_an_array_makes(sample: Vectors, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sample)
    wanted = fit_codec(sample, "PCA16,SQ8").encode(sample)
    for given in (tmp_path / "x.npy", str(tmp_path / "x.npy"), open_source(tmp_path / "x.npy")):
        assert np.array_equal(fit_codec(given, "PCA16,SQ8").encode(sample), wanted)
    with config_context(memory="2MB"), pytest.warns(NearfoldWarning, match="drawn at random"):
        few = fit_codec(tmp_path / "x.npy", "SQ8")
    assert not np.array_equal(
        few.tensors()["quantizer.ranges"], fit_codec(sample, "SQ8").tensors()["quantizer.ranges"]
    )


def test_learned_codes_keep_more_than_product_codes(sample: Vectors) -> None:
    base, queries = sample[:1300], sample[1300:]
    truth = GroundTruth.compute(base, queries, 10, "cosine")
    fitter = CodecFitter(base, budget=0.4)
    learned = judged(fitter.fit("NearFold96,AQ12"), truth, 10, 0)[0]
    product = judged(fitter.fit("NearFold96,OPQ12"), truth, 10, 0)[0]
    assert learned.recall[10].mean > product.recall[10].mean + 0.02


def test_learned_codes_keep_more_than_product_codes_by_distance(sample: Vectors) -> None:
    """Under l2 a byte says the norm: the codes have one fewer, and still keep more."""
    base, queries = sample[:1300], sample[1300:]
    truth = GroundTruth.compute(base, queries, 10, "l2")
    fitter = CodecFitter(base, metric="l2", budget=0.4)
    learned = judged(fitter.fit("NearFold96,AQ12"), truth, 10, 0)[0]
    product = judged(fitter.fit("NearFold96,OPQ12"), truth, 10, 0)[0]
    assert learned.recall[10].mean > product.recall[10].mean
    with pytest.raises(ParameterError, match="l2 needs 2 bytes"):
        fitter.fit("NearFold96,AQ1")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_learned_levels_and_query_maps_keep_more_than_signs(sample: Vectors, metric: Metric) -> None:
    base, queries = sample[:1300], sample[1300:]
    truth = GroundTruth.compute(base, queries, 10, metric)
    fitter = CodecFitter(base, metric=metric, budget=0.4)
    learned = judged(fitter.fit("NearFold96,RSQ1"), truth, 10, 0)[0]
    signs = judged(fitter.fit("NearFold96,Binary"), truth, 10, 0)[0]
    assert learned.recall[10].mean > signs.recall[10].mean + 0.02


@pytest.mark.parametrize("spec", ["NearFold32,AQ8", "NearFold32,RSQ2", "NearFold16,SQ8"])
def test_codes_learned_with_queries_keep_more_of_their_neighbours(
    spec: str, rng: np.random.Generator
) -> None:
    # Queries look along a few directions, in which rows hardly differ.
    base = rng.standard_normal((3000, 48)).astype(np.float32)
    base[:, :32] *= 3
    asked = rng.standard_normal((1300, 48)).astype(np.float32)
    asked[:, :32] *= 0.1
    given, held = asked[:1000], asked[1000:]
    truth = GroundTruth.compute(base, held, 10, "ip")

    def recall(codec: Codec) -> float:
        return judged(codec, truth, 10, 0)[0].recall[10].mean

    alone = recall(fit_codec(base, spec, metric="ip"))
    assert recall(fit_codec(base, spec, metric="ip", queries=given)) > alone + 0.05


def test_queries_of_other_dimensions_are_refused(sample: Vectors) -> None:
    with pytest.raises(DataError, match="queries has 8 dimensions"):
        fit_codec(sample, "NearFold32,AQ8", queries=sample[:50, :8])


def test_the_same_seed_makes_the_same_codec(sample: Vectors) -> None:
    first, second = (CodecFitter(sample, budget=0.1).fit("NearFold24,AQ8") for _ in range(2))
    assert np.array_equal(first.encode(sample), second.encode(sample))
    other = CodecFitter(sample, seed=1, budget=0.1).fit("NearFold24,AQ8")
    assert not np.array_equal(first.encode(sample), other.encode(sample))


@pytest.mark.parametrize("spec", ["NearFold24,AQ8", "NearFold24,RSQ2"])
def test_scale_does_not_matter_for_learning(sample: Vectors, spec: str) -> None:
    """Rates are for norm 1: data a thousand times as large learns the same codes, and the same queries."""
    base = sample[:900, :48]
    small = CodecFitter(base, metric="l2", budget=0.1).fit(spec)
    large = CodecFitter(base * 1000, metric="l2", budget=0.1).fit(spec)
    same = (small.encode(base) == large.encode(base * 1000)).mean()
    assert same > 0.95
    asked, wide = (
        np.delete(c.projection.project_queries(X), -1, axis=1)
        for c, X in ((small, base), (large, base * 1000))
    )
    units = [part / np.linalg.norm(part, axis=1).mean() for part in (asked, wide)]
    np.testing.assert_allclose(units[0], units[1], atol=0.05)


def test_bad_input_is_refused(sample: Vectors) -> None:
    codec = CodecFitter(sample, budget=0.1).fit("PCA16,SQ8")
    with pytest.raises(DataError, match="384"):
        codec.encode(sample[:, :20])
    with pytest.raises(DataError, match="zero vector at row 1"):
        fit_codec(sample, "SQ8").encode(np.stack([sample[0], 0 * sample[0]]))
    with pytest.raises(DataError, match="row 2"):
        codec.encode(np.where(np.arange(4)[:, None] == 2, np.nan, sample[:4]))
    with pytest.raises(ParameterError, match="uint8"):
        codec.transform(sample, dtype=np.float32)


@pytest.mark.parametrize(
    ("spec", "rows", "says"),
    [
        ("NearFold20,PQ8", 300, "8 bytes don't divide 20 dimensions"),
        ("NearFold50%,OPQ7_24", 300, "7 bytes don't divide 24 dimensions"),
        ("NearFold16,PQ8", 255, "256 rows, there are 255"),
        ("NearFold16,AQ8", 255, "256 rows, there are 255"),
        ("NearFold16,AQ24", 300, "24 bytes are more than the 16 dimensions"),
        ("AQ65", 300, "65 bytes are more than the 64 dimensions"),
        ("NearFold20,Binary", 300, "8 divides, not 20"),
        ("NearFold20,RSQ1", 300, "8 divides, not 20"),
        ("NearFold18,RSQ2", 300, "4 divides, not 18"),
        ("RAEMLP16,RSQ1", 300, "fold by a linear method"),
        ("NearFold16,OPQ8_32", 300, "can't rotate 16 dimensions to 32"),
        ("RAEMLP16,AQ8", 300, "fold by a linear method"),
        ("NearFold64,SQ8", 300, "fewer than the n_features = 64"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_before_anything_is_learned(
    sample: Vectors, monkeypatch: pytest.MonkeyPatch, spec: str, rows: int, says: str
) -> None:
    monkeypatch.setattr(CodecFitter, "fold", None)
    with pytest.raises(ParameterError, match=re.escape(says)):
        fit_codec(sample[:rows, :64], spec)


def test_files_of_other_kinds_are_told_apart(sample: Vectors, tmp_path: Path) -> None:
    fold, pipe = tmp_path / "fold.safetensors", tmp_path / "pipe.safetensors"
    NearFold(8, n_steps=5).fit(sample).encoder_.save(fold)
    fit_codec(sample, "NearFold16,SQ8").save(pipe)
    with pytest.raises(FileError, match="holds a linear fold, not a codec"):
        Codec.load(fold)
    with pytest.raises(FileError, match="holds a codec"):
        Encoder.load(pipe)
    assert isinstance(load(fold), Encoder)
    assert isinstance(load(pipe), Codec)
    whole = pipe.read_bytes()
    for cut in range(0, len(whole), len(whole) // 15):
        pipe.write_bytes(whole[:cut])
        with pytest.raises(FileError, match=r"pipe\.safetensors"):
            Codec.load(pipe)


def test_rotations_are_orthonormal(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((600, 16)).astype(np.float32) * np.linspace(3, 0.1, 16, dtype=np.float32)
    for rotation in (random_rotation(16, 0), balanced_rotation(rows, [4] * 4), opq_rotation(rows, 4, 16)):
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-4)
    shares = np.var(rows @ balanced_rotation(rows, [4] * 4).T, axis=0).reshape(4, 4)
    in_order = np.sort(shares.ravel()).reshape(4, 4)
    assert np.ptp(np.log(shares).sum(axis=1)) < np.ptp(np.log(in_order).sum(axis=1)) / 2
    assert (shares.max(axis=1) > np.sort(shares.ravel())[-5]).all(), "the largest four are apart"
    assert balanced_rotation(rows, [3, 3]).shape == (6, 16)


def test_codebooks_by_least_squares_leave_no_slope(rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((700, 6)).astype(np.float32)
    books = rng.standard_normal((3, CODEWORDS, 6)).astype(np.float32)
    codes = rng.integers(0, CODEWORDS, (700, 3)).astype(np.uint8)
    prior = 5.0
    fitted = fitted_codebooks(vectors, books, codes, prior)
    left = vectors - decoded(codes, fitted)
    slope = prior * (fitted - books).reshape(-1, 6) - codeword_sums(codes, left)
    assert np.abs(slope).max() < 1e-3
    assert (left**2).sum() < ((vectors - decoded(codes, books)) ** 2).sum()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_images_are_those_of_all_rows_at_once(metric: Metric, rng: np.random.Generator) -> None:
    rows, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((9000, 5), (3, 5)))
    rows *= 7
    center = rows.mean(axis=0) if metric == "l2" else None
    mapped, unit = folded_images(rows, weight, metric, center)
    prepared = rows if center is None else rows - center
    norms = np.linalg.norm(prepared, axis=1)
    wanted = prepared / norms[:, None] if metric == "cosine" else prepared / norms.mean()
    np.testing.assert_allclose(mapped, wanted @ weight.T, atol=1e-4)
    assert unit == pytest.approx(1 if metric == "cosine" else 1 / norms.mean(), rel=1e-4)
