"""Quantisers: bytes, codes there and back, and that an index ranks by what codes stand for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfold.codecs.least_squares import fitted_codebooks
from nearfold.codecs.quantizers.additive import Additive
from nearfold.codecs.quantizers.base import Quantizer, QuantizerSpec, filled
from nearfold.codecs.quantizers.binary import Binary, sign_codebooks
from nearfold.codecs.quantizers.codewords import decoded, first_codes, home_slices, refine
from nearfold.codecs.quantizers.floats import Floats
from nearfold.codecs.quantizers.product import Product
from nearfold.codecs.quantizers.rabitq import RaBitQ, rabitq_bytes
from nearfold.codecs.quantizers.rotated import Rotated
from nearfold.codecs.quantizers.scalar import Scalar
from nearfold.codecs.tensors import Score
from nearfold.errors import ParameterError

Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return np.random.default_rng(1).standard_normal((400, 16)).astype(np.float32)


def additive(vectors: Vectors, groups: int, books: int) -> Additive:
    rng = np.random.default_rng(2)
    shape = (groups, books, 256, vectors.shape[1] // groups)
    return Additive(f"AQ{groups * books}", rng.standard_normal(shape).astype(np.float32))


def with_norms(vectors: Vectors) -> Additive:
    """Return additive codes of 16 dimensions and one for norms, in two groups of three codebooks."""
    rng = np.random.default_rng(2)
    norms = np.linspace(-20, 0, 256, dtype=np.float32)
    shape = (2, 3, 256, vectors.shape[1] // 2)
    starts = rng.standard_normal((256, vectors.shape[1])).astype(np.float32)
    return Additive("AQ6", rng.standard_normal(shape).astype(np.float32), starts, norms)


def rotated(name: str, width: int, *, norms: bool = False) -> Rotated:
    levels = np.sort(np.random.default_rng(2).standard_normal((width, 2 ** int(name[-1]))), axis=1)
    return Rotated(name, levels.astype(np.float32), norms=norms)


def every(vectors: Vectors) -> list[tuple[Quantizer, int, bool]]:
    """Return quantisers, their bytes, and whether they can turn codes into vectors."""
    return [
        (Floats("F32", 16), 64, True),
        (Floats("F16", 16), 32, True),
        (Scalar.train(QuantizerSpec("SQ8"), vectors), 16, True),
        (Scalar.train(QuantizerSpec("SQ6"), vectors), 12, True),
        (Scalar.train(QuantizerSpec("SQ4"), vectors), 8, True),
        (Product.train(QuantizerSpec("PQ", 4), vectors), 4, True),
        (Binary("Binary", sign_codebooks(vectors)), 2, True),
        (RaBitQ.train(QuantizerSpec("RaBitQ1"), vectors), rabitq_bytes("RaBitQ1", 16), False),
        (RaBitQ.train(QuantizerSpec("RaBitQ4"), vectors), rabitq_bytes("RaBitQ4", 16), False),
        (rotated("RSQ1", 16), 2, True),
        (rotated("RSQ2", 16), 4, True),
        (rotated("RSQ4", 16), 8, True),
        (additive(vectors, 2, 2), 4, True),
        (with_norms(vectors), 6, True),
    ]


def test_codes_have_the_bytes_counted_and_survive_their_tensors(vectors: Vectors) -> None:
    for quantizer, size, _ in every(vectors):
        codes = quantizer.encode(vectors)
        assert codes.dtype == np.uint8
        assert codes.shape == (400, size), quantizer.name
        assert quantizer.code_size == size
        again = type(quantizer).from_tensors(quantizer.name, quantizer.width, quantizer.tensors())
        assert np.array_equal(again.encode(vectors), codes), quantizer.name


@pytest.mark.parametrize("score", ["ip", "l2"])
def test_an_index_ranks_by_what_codes_stand_for(vectors: Vectors, score: Score) -> None:
    queries = vectors[:20]
    for quantizer, _, decodes in every(vectors):
        if not decodes or (isinstance(quantizer, Additive | Rotated) and score == "l2"):
            continue
        codes = quantizer.encode(vectors)
        index = filled(quantizer.index(score), codes)
        scores = index.search(quantizer.prepare_queries(queries), 5)[0]
        meant = quantizer.decode(codes)
        exact = queries @ meant.T
        if score == "l2":
            exact = -np.square(queries[:, None] - meant[None]).sum(axis=2)
            scores = -scores
        np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :5], rtol=1e-3, atol=1e-3)


def test_finer_codes_are_nearer(vectors: Vectors) -> None:
    def error(quantizer: Quantizer) -> float:
        return float(np.square(quantizer.decode(quantizer.encode(vectors)) - vectors).mean())

    errors = [error(Scalar.train(QuantizerSpec(name), vectors)) for name in ("SQ8", "SQ6", "SQ4")]
    assert errors == sorted(errors)
    assert errors[-1] < error(Binary("Binary", sign_codebooks(vectors))) < 0.5


def test_refining_never_makes_a_code_worse_and_ends_where_no_single_change_helps(vectors: Vectors) -> None:
    books = np.random.default_rng(3).standard_normal((3, 256, 16)).astype(np.float32)
    starts = np.concatenate(
        [book[:, home] for book, home in zip(books, home_slices(3, 16), strict=True)], axis=1
    )
    codes = first_codes(vectors, starts, 3)
    before = np.square(vectors - decoded(codes, books)).sum(axis=1)
    left = refine(vectors, books, codes, 50)
    np.testing.assert_allclose(left, vectors - decoded(codes, books), atol=1e-4)
    after = np.square(left).sum(axis=1)
    assert (after <= before + 1e-4).all()
    assert after.mean() < 0.9 * before.mean()
    for j in range(3):
        others = vectors - decoded(codes, books) + books[j][codes[:, j]]
        best = np.square(others[:, None] - books[j][None]).sum(axis=2).min(axis=1)
        np.testing.assert_allclose(after, best, rtol=1e-3, atol=1e-3)


def test_the_last_byte_says_the_norm_of_what_the_others_stand_for(vectors: Vectors) -> None:
    quantizer = with_norms(vectors)
    meant = quantizer.decode(quantizer.encode(vectors))
    halves = -0.5 * np.square(meant[:, :-1]).sum(axis=1)
    np.testing.assert_allclose(meant[:, -1], np.maximum(halves, -20), atol=20 / 255 / 2 + 1e-4)
    tensors = {**quantizer.tensors(), "norms": quantizer.tensors()["norms"][::-1]}
    with pytest.raises(ValueError, match="rise"):
        Additive.from_tensors("AQ6", 16, tensors)


@pytest.mark.parametrize("name", ["RSQ1", "RSQ2", "RSQ4"])
def test_each_number_becomes_its_nearest_level_in_an_index_too(vectors: Vectors, name: str) -> None:
    quantizer = rotated(name, 16)
    levels = quantizer.tensors()["levels"]
    meant = quantizer.decode(quantizer.encode(vectors))
    nearest = np.abs(vectors[:, :, None] - levels[None]).argmin(axis=2)
    np.testing.assert_array_equal(meant, levels[np.arange(16), nearest])


def test_a_dimension_for_norms_ranks_levels_by_distance(vectors: Vectors) -> None:
    quantizer = rotated("RSQ2", 16, norms=True)
    assert (quantizer.width, quantizer.code_size) == (17, 4)
    ones = np.ones((400, 1), np.float32)
    codes = quantizer.encode(np.hstack([vectors, ones]))
    meant = quantizer.decode(codes)
    np.testing.assert_allclose(meant[:, -1], -0.5 * np.square(meant[:, :-1]).sum(axis=1), rtol=1e-5)
    index = filled(quantizer.index("ip"), codes)
    queries = vectors[:20]
    scores = index.search(quantizer.prepare_queries(np.hstack([queries, ones[:20]])), 5)[0]
    exact = np.square(queries[:, None] - meant[None, :, :-1]).sum(axis=2)
    exact -= np.square(queries).sum(axis=1)[:, None]
    np.testing.assert_allclose(scores, -0.5 * np.sort(exact, axis=1)[:, :5], rtol=1e-3, atol=1e-3)
    again = Rotated.from_tensors("RSQ2", 17, quantizer.tensors())
    np.testing.assert_array_equal(again.decode(codes), meant)


def test_least_squares_leave_less_and_a_strong_prior_leaves_codebooks_as_they_are(vectors: Vectors) -> None:
    books = np.random.default_rng(3).standard_normal((3, 256, 16)).astype(np.float32)
    codes = np.random.default_rng(4).integers(0, 256, (400, 3)).astype(np.uint8)
    fitted = fitted_codebooks(vectors, books, codes, 1e-2)
    left = np.square(vectors - decoded(codes, fitted)).sum()
    assert left < 0.2 * np.square(vectors - decoded(codes, books)).sum()
    # At the minimum, any change is worse once its price is counted.
    price = 1e-2 * np.square(fitted - books).sum()
    for seed in range(5):
        other = fitted + 1e-2 * np.random.default_rng(seed).standard_normal(fitted.shape).astype(np.float32)
        worse = np.square(vectors - decoded(codes, other)).sum() + 1e-2 * np.square(other - books).sum()
        assert worse > left + price
    np.testing.assert_allclose(fitted_codebooks(vectors, books, codes, 1e9), books, atol=1e-4)


def test_home_slices_share_all_dimensions() -> None:
    slices = home_slices(3, 10)
    assert [s.stop - s.start for s in slices] == [3, 3, 4]
    assert (slices[0].start, slices[-1].stop) == (0, 10)


def test_signs_stand_for_the_mean_of_their_side(vectors: Vectors) -> None:
    quantizer = Binary("Binary", sign_codebooks(vectors))
    meant = quantizer.decode(quantizer.encode(vectors))
    above = vectors[:, 3] > 0
    sides = vectors[~above, 3].mean(), vectors[above, 3].mean()
    nearer = np.abs(vectors[:, 3] - sides[1]) < np.abs(vectors[:, 3] - sides[0])
    np.testing.assert_allclose(meant[:, 3], np.where(nearer, sides[1], sides[0]), rtol=1e-5)


def test_what_can_not_be_is_refused(vectors: Vectors) -> None:
    with pytest.raises(ParameterError, match="inner product"):
        additive(vectors, 1, 2).index("l2")
    with pytest.raises(ParameterError, match="graph"):
        additive(vectors, 1, 2).graph_index(8, "ip")
    with pytest.raises(ParameterError, match="inner product"):
        rotated("RSQ1", 16).index("l2")
    with pytest.raises(ParameterError, match="graph"):
        Product.train(QuantizerSpec("PQ", 4), vectors).graph_index(8, "ip")
    with pytest.raises(ParameterError, match="graph"):
        RaBitQ.train(QuantizerSpec("RaBitQ1"), vectors).graph_index(8, "ip")
    with pytest.raises(ParameterError, match="lists"):
        RaBitQ.train(QuantizerSpec("RaBitQ1"), vectors).lists_index(8, "ip")
    with pytest.raises(ParameterError, match="turned back"):
        RaBitQ.train(QuantizerSpec("RaBitQ2"), vectors).decode(np.zeros((1, 30), np.uint8))
    for kind, tensors in (
        (Scalar, {"ranges": np.zeros(3, np.float32)}),
        (Product, {"codebooks": np.zeros((2, 255, 2), np.float32)}),
        (RaBitQ, {"center": np.zeros(3, np.float32), "l2": np.zeros(1, np.float32)}),
        (Rotated, {"levels": np.zeros((16, 2), np.float32)}),
        (Additive, {"codebooks": np.zeros((1, 2, 256, 3), np.float32)}),
    ):
        with pytest.raises((ValueError, KeyError)):
            kind.from_tensors("SQ8" if kind is Scalar else "RaBitQ1", 16, tensors)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_tables_decode_any_code_as_the_quantiser_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((300, 16)).astype(np.float32)
    quantizers = [each for each, _, _ in every(vectors)]
    quantizers += [rotated(name, 16, norms=True) for name in ("RSQ1", "RSQ2", "RSQ4")]
    quantizers.append(Scalar.train(QuantizerSpec("SQ6"), vectors[:, :15]))
    for quantizer in quantizers:
        if isinstance(quantizer, Floats | RaBitQ):
            with pytest.raises(ParameterError, match=quantizer.name):
                quantizer.tables()
            continue
        codes = rng.integers(0, 256, (20, quantizer.code_size)).astype(np.uint8)
        tables = quantizer.tables()
        assert tables.codebooks.shape == (len(tables.dims), 2**tables.bits, tables.dims.shape[1])
        stream = np.unpackbits(codes, axis=1, bitorder="little")[:, : tables.bits * len(tables.dims)]
        words = stream.reshape(len(codes), -1, tables.bits) @ (1 << np.arange(tables.bits))
        found = np.zeros((len(codes), quantizer.width), np.float32)
        for book, dims, chosen in zip(tables.codebooks, tables.dims, words.T, strict=True):
            found[:, dims] += book[chosen]
        np.testing.assert_allclose(found, quantizer.decode(codes), rtol=1e-5, atol=1e-4)
