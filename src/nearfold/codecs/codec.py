"""The codec: a projection and a quantiser as one immutable value, in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric, as_rows, check_products, chunk_rows
from nearfold._utils.files import replacing
from nearfold._utils.schema import checked_values
from nearfold.codecs.projections import DualProjection, Projection, SharedProjection
from nearfold.codecs.quantizers.base import Codes, Quantizer, faiss_ready
from nearfold.codecs.quantizers.registry import parse_quantizer
from nearfold.codecs.tensors import Tensors
from nearfold.errors import FileError, ParameterError
from nearfold.folds.fold import FORMAT_VERSION, Fold, FoldFile, other_kind, read_fold_file, safetensors_bytes
from nearfold.folds.loading import fold_of
from nearfold.folds.origin import checked_facts, checked_name, checked_parameters, sealed
from nearfold.version import __version__

__all__ = ["Applied", "Codec", "load_any"]

_CHUNK_BYTES = 32 << 20

FIRST_FORMAT = "nearfold.pipeline"
"""The format of files from before codecs had this name, which differs in names alone."""


class Codec:
    """A fold and a quantiser: encodes base vectors, and prepares queries for an index of the codes.

    `fit_codec` and `plan` make one, and `load` reads one.

    Parameters
    ----------
    spec : str
        The name, such as "NearFold192,AQ24".
    projection : Projection
        The maps of base vectors and queries to the space of the quantiser.
    quantizer : Quantizer
        The trained quantiser.
    facts : mapping, optional
        What training saw; anything that JSON can hold.

    Raises
    ------
    ValueError
        The projection ends in other dimensions than the quantiser takes.
    """

    format_name: ClassVar[str] = "nearfold.codec"
    """The name of the format in the metadata of its files."""

    def __init__(
        self, spec: str, projection: Projection, quantizer: Quantizer, facts: Mapping[str, Any] | None = None
    ) -> None:
        if projection.width != quantizer.width:
            raise ValueError(f"{quantizer.name} takes {quantizer.width} dimensions, not {projection.width}")
        self.spec, self.projection, self.quantizer = spec, projection, quantizer
        self.facts: Mapping[str, Any] = MappingProxyType(checked_facts(facts or {}))

    @property
    def metric(self) -> Metric:
        """The metric that vectors are searched with."""
        return self.projection.metric

    @property
    def n_features(self) -> int:
        """The dimensions d of the vectors that it takes."""
        return self.projection.n_features

    @property
    def bytes_per_vector(self) -> int:
        """The bytes of a code, norms and factors included."""
        return self.quantizer.code_size

    @property
    def shared_bytes(self) -> int:
        """The bytes that are stored once for all vectors: the fold, codebooks, ranges."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy can't be pickled.
        return type(self), (self.spec, self.projection, self.quantizer, dict(self.facts))

    def __repr__(self) -> str:
        return f"Codec({self.spec}, {self.n_features} -> {self.bytes_per_vector} bytes, {self.metric})"

    @property
    def n_components(self) -> int:
        """The length of a transformed row: its bytes."""
        return self.bytes_per_vector

    def transform(self, X: npt.ArrayLike, *, dtype: npt.DTypeLike = np.uint8) -> Codes:
        """Return codes as `encode` does, so that whatever applies a fold can apply a codec.

        Raises
        ------
        DataError
            As `encode`.
        ParameterError
            `dtype` is not uint8.
        """
        if np.dtype(dtype) != np.uint8:
            raise ParameterError(f"a codec makes codes of dtype uint8, not {np.dtype(dtype)}")
        return self.encode(X)

    def encode(self, X: npt.ArrayLike) -> Codes:
        """Return the codes of base vectors.

        Parameters
        ----------
        X : array-like of shape (n, d)
            The vectors, of any real dtype.

        Returns
        -------
        ndarray of shape (n, bytes_per_vector), uint8
            The codes.

        Raises
        ------
        DataError
            X is not two-dimensional, not d wide or not finite, has a zero row under cosine, or numbers
            whose squares are beyond float32.
        """
        rows = as_rows(X)
        step = chunk_rows(max(self.n_features, self.projection.width), _CHUNK_BYTES)
        codes = np.empty((len(rows), self.bytes_per_vector), np.uint8)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            images = self.projection.project(rows[part])
            # faiss doesn't come back from some products that overflow.
            check_products(images, "l2", "X", alone=False)
            codes[part] = self.quantizer.encode(images)
        return codes

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors (n, width), projected, that codes (n, bytes_per_vector) stand for.

        Raises
        ------
        ParameterError
            Codes of this quantiser can't be turned back.
        """
        return self.quantizer.decode(codes)

    def prepare_queries(self, X: npt.ArrayLike) -> Float32:
        """Return queries (q, d) in the form that an `index` of this codec takes.

        Raises
        ------
        DataError
            As for `encode`.
        """
        return self.quantizer.prepare_queries(faiss_ready(self.projection.project_queries(X), "queries"))

    def index(self) -> Any:
        """Return an empty faiss index to which codes can be added (`add_sa_codes`)."""
        return self.quantizer.index(self.projection.score)

    def as_dict(self) -> dict[str, Any]:
        """Return what the codec is, as JSON holds it."""
        return {
            "spec": self.spec,
            "metric": self.metric,
            "n_features": self.n_features,
            "bytes_per_vector": self.bytes_per_vector,
            "shared_bytes": self.shared_bytes,
            "facts": dict(self.facts),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the codec to a safetensors file, atomically.

        Raises
        ------
        FileError
            The file can't be written.
        """
        fold = self.projection.fold if isinstance(self.projection, SharedProjection) else None
        metadata = {
            "format": self.format_name,
            "format_version": str(FORMAT_VERSION),
            "nearfold": __version__,
            "metric": self.metric,
            "method": self.spec,
            "parameters": json.dumps(
                {
                    "quantizer": [self.quantizer.kind, self.quantizer.name],
                    "width": self.projection.width,
                    "n_features": self.n_features,
                    "fold": None if fold is None else _origin(fold),
                },
                sort_keys=True,
            ),
            "facts": json.dumps(dict(self.facts), sort_keys=True),
        }
        tensors = self.tensors()
        with replacing(path) as file:
            file.write(safetensors_bytes(tensors, sealed(tensors, metadata)))

    def tensors(self) -> Tensors:
        """Return everything that was learned, by the names that `save` writes."""
        tensors = {f"quantizer.{name}": tensor for name, tensor in self.quantizer.tensors().items()}
        tensors |= {f"projection.{name}": tensor for name, tensor in self.projection.tensors().items()}
        if isinstance(self.projection, SharedProjection) and self.projection.fold is not None:
            tensors |= {f"fold.{name}": tensor for name, tensor in self.projection.fold.tensors().items()}
        return tensors

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codec:
        """Read what `save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : str or path-like
            The file.

        Raises
        ------
        FileError
            The file is missing, truncated or corrupt, holds no codec, or is of a later format version.
        """
        return cls.from_file(Path(path), read_fold_file(path))

    @classmethod
    def from_file(cls, path: Path, content: FoldFile) -> Codec:
        """Return the codec that a file's content describes; raises as `load` does."""
        if content.format_name == FIRST_FORMAT:
            content = _renamed(content)
        if content.format_name != cls.format_name:
            raise other_kind(path, content.format_name, "a codec")
        settings = checked_values(
            content.origin["parameters"],
            _Settings,
            str(path),
            "give a codec that `plan` wrote",
            strict=True,
        )
        try:
            return cls._of(path, content, settings)
        except (KeyError, ValueError, RuntimeError) as error:
            # RuntimeError: what faiss says of arrays that it can't take.
            raise FileError(f"{path}: not a usable codec: {error}") from error

    @classmethod
    def _of(cls, path: Path, content: FoldFile, settings: _Settings) -> Codec:
        parts: dict[str, Tensors] = {"quantizer": {}, "projection": {}, "fold": {}}
        for name, tensor in content.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        metric, spec = content.origin["metric"], content.origin["method"]
        kind, name = settings.quantizer
        if name not in (_quantizer_in(spec), "F32" if "," not in spec else None):
            raise ValueError(f"{spec} has the quantiser {name}")
        family = parse_quantizer(name)
        if family is None or family[0].kind != kind:
            raise ValueError(f"{name!r:.60} is no quantiser of kind {kind!r:.60}; upgrade nearfold")
        quantizer: Quantizer = family[0].from_tensors(name, settings.width, parts["quantizer"])
        held, fold = parts["projection"], None
        if settings.fold is not None:
            fold = _inner_fold(path, settings.fold, parts["fold"])
            if fold.metric != metric:
                raise ValueError(f"a fold for {fold.metric} in a codec for {metric}")
        projection: Projection
        if "base_weight" in held:
            projection = DualProjection.from_tensors(held, metric, quantizer.width)
        else:
            projection = SharedProjection(fold, held.get("rotation"), metric, settings.n_features)
        if projection.n_features != settings.n_features:
            raise ValueError(
                f"maps of {projection.n_features} dimensions for vectors of {settings.n_features}"
            )
        if quantizer.score not in (None, projection.score):
            raise ValueError(
                f"codes made for the score {quantizer.score} where the projection needs {projection.score}"
            )
        codec = cls(spec, projection, quantizer, content.origin["facts"])
        if unknown := content.tensors.keys() ^ codec.tensors().keys():
            raise ValueError(f"tensors that don't belong to it: {', '.join(sorted(unknown))}")
        # What can't be searched is refused here, not when the first vectors are added.
        codec.index()
        return codec


def _renamed(content: FoldFile) -> FoldFile:
    """Return the content of a file of the first format under the names of the present one."""
    tensors = {
        f"projection.{name.removeprefix('sides.')}" if name.startswith("sides.") else name: tensor
        for name, tensor in content.tensors.items()
    }
    return content._replace(format_name=Codec.format_name, tensors=tensors)


class _FoldSettings(msgspec.Struct, frozen=True):
    """The part of a codec file's metadata that describes its fold."""

    format: str
    metric: Metric
    method: str
    parameters: dict[str, Any]
    facts: dict[str, Any]


_Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
_Name = Annotated[str, msgspec.Meta(max_length=200)]


class _Settings(msgspec.Struct, frozen=True):
    """The part of a codec file's metadata that describes the codec."""

    quantizer: tuple[_Name, _Name]
    width: _Width
    n_features: _Width
    fold: _FoldSettings | None


def _quantizer_in(spec: str) -> str:
    """Return the quantiser's name in a codec's: OPQ24 for PCA192,OPQ24_96."""
    return spec.rpartition(",")[2].partition("_")[0]


def _inner_fold(path: Path, said: _FoldSettings, tensors: Tensors) -> Fold:
    try:
        origin = {
            "metric": said.metric,
            "method": checked_name("method", said.method),
            "parameters": checked_parameters(said.parameters),
            "facts": checked_facts(said.facts),
        }
    except ParameterError as error:
        raise FileError(f"{path}: not a usable codec: {error}") from error
    return fold_of(path, FoldFile(said.format, tensors, origin))


def _origin(fold: Fold) -> dict[str, Any]:
    """Return the metadata that describe a fold in a codec's file."""
    return {
        "format": fold.format_name,
        "metric": fold.metric,
        "method": fold.method,
        "parameters": dict(fold.parameters),
        "facts": dict(fold.facts),
    }


Applied: TypeAlias = Fold | Codec
"""Whatever maps vectors of `n_features` to rows of `n_components` by `transform`."""


def load_any(path: str | os.PathLike[str]) -> Applied:
    """Read a saved fold or codec, whichever the file holds; raises as their own `load` does."""
    content = read_fold_file(path)
    if content.format_name in (Codec.format_name, FIRST_FORMAT):
        return Codec.from_file(Path(path), content)
    return fold_of(Path(path), content)
