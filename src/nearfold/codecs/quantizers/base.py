"""What every quantiser is: a class that knows its names, and small immutable values once it is trained.

One file holds all of a quantiser: its names, what it needs, how it is trained, its codes, its indexes, and
the sizes that the planner tries. `registry.py` lists the classes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric, check_finite, check_products
from nearfold.codecs.tensors import Score, Tensors
from nearfold.errors import ParameterError

if TYPE_CHECKING:
    from nearfold.codecs.projections import Projection
    from nearfold.methods.training import WeightedBlocks

__all__ = [
    "CODEWORDS",
    "Candidate",
    "CodeTables",
    "Codes",
    "FaissQuantizer",
    "Images",
    "JointQuantizer",
    "Quantizer",
    "QuantizerSpec",
    "TrainedQuantizer",
    "Training",
    "bytes_in",
    "candidates_by_width",
    "check_codebooks",
    "faiss_metric",
    "faiss_ready",
    "filled",
    "own_lists",
]

Codes: TypeAlias = npt.NDArray[np.uint8]

CODEWORDS = 256
"""The codewords of a codebook, so that a code is one byte."""


# From this share of the dimensions on, fewer bits for more of them may not pay.
_MANY = 1 / 3


class QuantizerSpec(NamedTuple):
    """What the name of a quantiser says.

    Parameters
    ----------
    name : str
        The name without numbers that vary, such as "SQ8", "RaBitQ2", "PQ" or "AQ".
    n_bytes : int, default=0
        The bytes of a code, where the name says them; 0 where they follow from the dimensions.
    width : int, optional
        The dimensions that OPQ rotates to; None for all.
    """

    name: str
    n_bytes: int = 0
    width: int | None = None

    @property
    def stored(self) -> str:
        """The name of the trained quantiser, such as "OPQ24" for OPQ24_96: it takes rotated vectors."""
        return f"{self.name}{self.n_bytes or ''}"

    def __str__(self) -> str:
        return self.stored + (f"_{self.width}" if self.width else "")


class Candidate(NamedTuple):
    """A quantiser that the planner should try, and the fold before it.

    Parameters
    ----------
    spec : QuantizerSpec
        The quantiser.
    n_components : int, optional
        The dimensions to fold to before; None to quantise all dimensions.
    by_variance : bool, default=False
        Whether uncentred principal components should be tried as the fold too.
    """

    spec: QuantizerSpec
    n_components: int | None = None
    by_variance: bool = False


class CodeTables(NamedTuple):
    """What codes stand for: sums of codewords, each of which some bits of a code name.

    A code is read as one string of bits, the lowest bit of each byte first. Its first `bits` bits name a
    codeword of the first codebook, the next ones a codeword of the second, and so on.

    Attributes
    ----------
    bits : int
        The bits that name a codeword.
    codebooks : ndarray of shape (books, 2**bits, s), float32
        The codewords.
    dims : ndarray of shape (books, s), int32
        The dimensions to which the numbers of each codebook's words are added.
    """

    bits: int
    codebooks: Float32
    dims: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Training:
    """The circumstances of training.

    Parameters
    ----------
    score : {"ip", "l2"}, default="ip"
        How queries will be compared with codes.
    seed : int, default=0
        The seed of everything drawn at random.
    budget : float, default=1.0
        The share of the usual steps or rounds to take: less than 1 to compare quantisers quickly.
    """

    score: Score = "ip"
    seed: int = 0
    budget: float = 1.0


class Images(NamedTuple):
    """Rows drawn at random, prepared for the metric, as a linear fold maps them.

    Attributes
    ----------
    mapped : ndarray of shape (n, m), float32
        The folded rows, times `unit`.
    unit : float
        What prepared vectors are multiplied by, as rates of learning are for norm 1: 1 by cosine, else one
        over their mean norm.
    """

    mapped: Float32
    unit: np.float32


def candidates_by_width(
    fitting: Sequence[tuple[str, int]], n_features: int, by_variance: str = ""
) -> Iterator[Candidate]:
    """Yield candidates of a family whose members spend different numbers of bits on each dimension.

    Parameters
    ----------
    fitting : sequence of (str, int)
        The names, and how many dimensions each can keep in the bytes there are.
    n_features : int
        The dimensions that there are.
    by_variance : str, default=""
        The member for which principal components are tried too. Neighbourhoods can be worth less than
        variance where hardly any dimension is left out.
    """
    # Fewer bits for more dimensions are better, until dimensions are many.
    widest = max((width for _, width in fitting), default=0)
    whole = min(((width, name) for name, width in fitting if width >= n_features), default=None)
    if whole:
        yield Candidate(QuantizerSpec(whole[1]))
    for name, width in fitting:
        many = width >= _MANY * n_features
        if width in range(1, n_features) and (width == widest or many):
            yield Candidate(QuantizerSpec(name), width, name == by_variance and many)


def check_codebooks(spec: QuantizerSpec, width: int, n_rows: int) -> None:
    """Refuse codebooks of more bytes than dimensions, or of fewer rows than codewords.

    Raises
    ------
    ParameterError
        They can't be trained.
    """
    if spec.n_bytes > width:
        raise ParameterError(
            f"{spec.n_bytes} bytes are more than the {width} dimensions they code; fold to more or use SQ8"
        )
    if n_rows < CODEWORDS:
        raise ParameterError(f"codebooks need at least {CODEWORDS} rows, there are {n_rows}; use SQ8")


def bytes_in(name: str, kinds: str) -> int:
    """Return the bytes that a quantiser's name says, such as 24 for PQ24; `kinds` is a regex such as PQ|OPQ.

    Raises
    ------
    ValueError
        The name is none of these kinds.
    """
    match = re.fullmatch(rf"(?:{kinds})([1-9][0-9]{{0,5}})", name)
    if match is None:
        raise ValueError(f"{name!r:.60} is no name of such a quantiser")
    return int(match[1])


def faiss_metric(score: Score) -> int:
    """Return faiss's constant for a score."""
    return int(faiss.METRIC_L2 if score == "l2" else faiss.METRIC_INNER_PRODUCT)


def faiss_ready(vectors: Float32, name: str = "the vectors to encode") -> Float32:
    """Return vectors (n, width) as faiss takes them, or refuse those that it would end the process over.

    Every vector that goes to faiss comes through here: distances that are NaN or infinite fail an
    assertion of its k-means in a thread of its own, where nothing can catch it.

    Raises
    ------
    DataError
        A number is not finite, or products of vectors leave float32's range.
    """
    ready = np.ascontiguousarray(vectors, np.float32)
    check_finite(ready, name)
    check_products(ready, "l2", name, alone=False)
    return ready


class Quantizer(ABC):
    """A quantiser: a class of this describes a family of them, and its instances are trained.

    Instances have `name`, as codecs write it ("SQ8", "PQ24"), and `width`, the dimensions they take.
    """

    names: ClassVar[dict[str, str]]
    """The names of the family and what each keeps; "<bytes>" behind a name stands for a number."""

    kind: ClassVar[str]
    """The mark of its tensors in files."""

    name: str
    width: int

    score: Score | None = None
    """The score that codes are made for; None for those that any score can compare."""

    @classmethod
    def parse(cls, text: str) -> QuantizerSpec | None:
        """Return what a name says, whatever its case; None where it is not of this family."""
        for name in cls.names:
            stem, sized, _ = name.partition("<bytes>")
            match = re.fullmatch(stem + ("([1-9][0-9]{0,5})" if sized else "()"), text, re.IGNORECASE)
            if match:
                return QuantizerSpec(stem, int(match[1] or 0))
        return None

    @classmethod  # noqa: B027
    def check(cls, spec: QuantizerSpec, width: int, n_rows: int) -> None:
        """Refuse what can't be trained, before anything is learned.

        Parameters
        ----------
        spec : QuantizerSpec
            A name of this family.
        width : int
            The dimensions of the vectors, folded where there is a fold.
        n_rows : int
            How many vectors there are to learn from.

        Raises
        ------
        ParameterError
            The quantiser doesn't go with such vectors.
        """

    @classmethod
    @abstractmethod
    def candidates(cls, n_bytes: int, n_features: int) -> Iterator[Candidate]:
        """Yield what the planner should try for codes of at most `n_bytes` of vectors of `n_features`."""

    @property
    @abstractmethod
    def code_size(self) -> int:
        """The bytes of one vector, norms and factors stored beside the codes included."""

    @abstractmethod
    def encode(self, vectors: Float32) -> Codes:
        """Return the codes of vectors (n, width): shape (n, code_size), uint8."""

    @abstractmethod
    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for: shape (n, width)."""

    @abstractmethod
    def tensors(self) -> Tensors:
        """Return the learned arrays by name, as files hold them."""

    def indexed_tensors(self) -> Tensors:
        """Return those of the learned arrays that an index of the codes holds too: all, by default."""
        return self.tensors()

    def tables(self) -> CodeTables:
        """Return what codes stand for, as plain arrays.

        Raises
        ------
        ParameterError
            Codes of this kind are not sums of codewords.
        """
        raise ParameterError(f"{self.name} codes are not sums of codewords")

    @classmethod
    @abstractmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes.

        Raises
        ------
        ValueError or KeyError
            The tensors don't describe one.
        """

    def check_codes(self, codes: Codes) -> None:  # noqa: B027
        """Refuse codes (n, code_size) of a file that stand for no vector.

        Raises
        ------
        ValueError
            There are such codes.
        """

    @abstractmethod
    def index(self, score: Score) -> Any:
        """Return an empty faiss index to which codes can be added (`add_sa_codes`)."""

    def lists_index(self, n_lists: int, score: Score) -> Any:  # noqa: ARG002
        """Return an empty faiss index of inverted lists; the caller says which list each code is in.

        Raises
        ------
        ParameterError
            faiss has none for this quantiser.
        """
        raise ParameterError(f"{self.name} has no inverted lists; use index kind flat")

    def graph_index(self, M: int, score: Score) -> Any:  # noqa: ARG002
        """Return an empty faiss graph, to which vectors (n, width) are added.

        Raises
        ------
        ParameterError
            Codes of this kind can't be compared with each other.
        """
        raise ParameterError(f"{self.name} codes can't be linked in a graph; use index kind flat or ivf")

    def prepare_queries(self, queries: Float32) -> Float32:
        """Return projected queries (q, width) in the form that an index of these codes takes."""
        return queries


class TrainedQuantizer(Quantizer):
    """Base of quantisers that are trained on projected vectors alone."""

    @classmethod
    def rotation(cls, spec: QuantizerSpec, vectors: Float32, how: Training) -> Float32 | None:  # noqa: ARG003
        """Return the rotation, shape (width, m), that vectors (n, m) should have before; None for none."""
        return None

    @classmethod
    @abstractmethod
    def train(cls, spec: QuantizerSpec, vectors: Float32, how: Training | None = None) -> Self:
        """Return the quantiser trained on vectors (n, width), rotated where `rotation` gives one.

        Raises
        ------
        DataError
            A number is not finite, or the vectors don't suffice.
        """


class JointQuantizer(Quantizer):
    """Base of quantisers that are learned together with the linear maps before them."""

    @classmethod
    @abstractmethod
    def learn(
        cls,
        spec: QuantizerSpec,
        weight: Float32,
        images: Images,
        parts: Sequence[WeightedBlocks],
        metric: Metric,
        center: Float32 | None,
        how: Training,
    ) -> tuple[Projection, Self]:
        """Return projection and quantiser.

        Parameters
        ----------
        spec : QuantizerSpec
            A name of this family.
        weight : ndarray of shape (m, d), float32
            The linear fold to start from.
        images : Images
            What the fold makes of rows drawn at random.
        parts : sequence of WeightedBlocks
            Anchors and their neighbours, prepared for the metric: those of rows, and those of queries if
            there are some.
        metric : {"cosine", "l2", "ip"}
            The metric that will be searched with.
        center : ndarray of shape (d,), optional
            What was subtracted from the vectors of the blocks.
        how : Training
            Seed and budget.

        Raises
        ------
        DataError
            The blocks don't suffice.
        """


def own_lists(make: Any, width: int, n_lists: int, score: Score, *more: Any) -> Any:
    """Return make(coarse index, width, n_lists, *more): an index of lists that keeps its coarse one alive."""
    coarse = faiss.IndexFlat(width, faiss_metric(score))
    index = make(coarse, width, n_lists, *more)
    # Lists are searched by number: the coarse index only has to be there.
    index.referenced_objects = [coarse]
    index.by_residual = False
    index.is_trained = True
    return index


class FaissQuantizer(TrainedQuantizer):
    """Base of quantisers that encode as the faiss index that searches them does."""

    @property
    def code_size(self) -> int:
        """The bytes of one vector."""
        return int(self.index("ip").sa_code_size())

    def encode(self, vectors: Float32) -> Codes:
        """Return the codes of vectors (n, width): shape (n, code_size), uint8."""
        codes: Codes = self.index("ip").sa_encode(faiss_ready(vectors))
        return codes

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for: shape (n, width)."""
        vectors: Float32 = self.index("ip").sa_decode(np.ascontiguousarray(codes))
        return vectors

    def graph_index(self, M: int, score: Score) -> Any:
        """Return an empty faiss graph, to which vectors (n, width) are added."""
        storage = self.index(score)
        graph = faiss.IndexHNSW(storage, M)
        graph.metric_type = storage.metric_type
        graph.is_trained = True
        graph.referenced_objects = [storage]
        return graph


def filled(index: Any, codes: Codes) -> Any:
    """Return a faiss index with codes added."""
    index.add_sa_codes(np.ascontiguousarray(codes))
    return index
