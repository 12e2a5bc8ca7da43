"""The encoder, which is the linear fold, as a small immutable value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric, as_rows, check_positive
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.folds.fold import FORMAT_VERSION, Fold, FoldFile, frozen_array, other_kind, read_fold_file

__all__ = ["FORMAT_VERSION", "Encoder"]


# What a fold's first dimensions share with the whole.
_FACTS_OF_DATA = ("rows", "anchors", "neighbors", "queries", "query_weight", "fingerprint")


@dataclass(frozen=True, eq=False, repr=False)
class Encoder(Fold):
    """A linear map z = W x + b from d to m dimensions, and its origin.

    Parameters
    ----------
    weight : ndarray of shape (m, d), float32
        The matrix W.
    bias : ndarray of shape (m,), float32, optional
        The vector b. By default it is zero.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        The metric to search folded vectors by.
    method : str, default=""
        The name of the method that learned the map, such as "nearfold".
    parameters : mapping, optional
        The parameters of the method, as values that JSON can hold. By default there are none.
    facts : mapping, optional
        What training saw and found, such as the number of rows and the loss, as values that JSON can hold.
        By default there are none.

    Raises
    ------
    DataError
        The shapes don't fit each other, or a value is not finite.
    ParameterError
        The metric is unknown, or JSON can't hold the parameters or the facts.

    Examples
    --------
    >>> import numpy as np
    >>> encoder = Encoder(np.eye(2, 3, dtype=np.float32), metric="l2")
    >>> encoder.transform([[1, 2, 3]])
    array([[1., 2.]], dtype=float32)
    """

    weight: Float32
    bias: Float32 | None = None
    metric: Metric = "cosine"
    method: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    format_name: ClassVar[str] = "nearfold.encoder"

    def __post_init__(self) -> None:
        weight = frozen_array(as_rows(self.weight, "weight"), "weight")
        bias = None if self.bias is None else frozen_array(np.asarray(self.bias)[None, :], "bias")[0]
        if bias is not None and bias.shape != (len(weight),):
            raise DataError(
                f"bias has shape {bias.shape}; a weight of shape {weight.shape} needs ({len(weight)},)"
            )
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)
        self._freeze_origin()

    @property
    def n_components(self) -> int:
        """The number m of reduced dimensions."""
        return int(self.weight.shape[0])

    @property
    def n_features(self) -> int:
        """The number d of dimensions of the input."""
        return int(self.weight.shape[1])

    def _apply(self, vectors: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        weight = self.weight.astype(vectors.dtype, copy=False)
        direct = out.dtype == weight.dtype
        folded = np.matmul(vectors, weight.T, out=out if direct else None)
        if self.bias is not None:
            folded += self.bias
        if not direct:
            out[...] = folded

    def tensors(self) -> dict[str, Float32]:
        """Return the weights by name: "weight", shape (m, d), and "bias", shape (m,), if there is one."""
        tensors = {"weight": self.weight}
        if self.bias is not None:
            tensors["bias"] = self.bias
        return tensors

    def truncate(self, n_components: int) -> Encoder:
        """Return the fold to the first dimensions of this one.

        It keeps most where the dimensions are in order of what they matter: after
        ``NearFold(96, nested=True)``, whose first dimensions are learned to be folds themselves, after PCA,
        whitening and the exact RAE. Vectors that are folded already are truncated alike, by
        ``Z[:, :n_components]``. By cosine the norms of what is left differ, so normalise it for an engine
        that doesn't.

        Parameters
        ----------
        n_components : int
            The number of dimensions to keep, at most all.

        Returns
        -------
        Encoder
            Without the facts that hold for all dimensions alone.

        Raises
        ------
        ParameterError
            There are fewer dimensions than that, or less than one is wanted.

        References
        ----------
        Kusupati et al., "Matryoshka representation learning" (arXiv 2205.13147).
        """
        check_positive("n_components", n_components)
        if n_components > self.n_components:
            raise ParameterError(
                f"n_components={n_components} is more than the {self.n_components} dimensions of the fold"
            )
        kept = {name: value for name, value in self.facts.items() if name in _FACTS_OF_DATA}
        nested = [width for width in self.known_facts.nested if width < n_components]
        return replace(
            self,
            weight=self.weight[:n_components],
            bias=None if self.bias is None else self.bias[:n_components],
            facts={
                **kept,
                **({"nested": nested} if nested else {}),
                "truncated_from": self.n_components,
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Encoder:
        """Read an encoder that `save` wrote. Nothing in the file is executed.

        Parameters
        ----------
        path : str or path
            The safetensors file.

        Returns
        -------
        Encoder

        Raises
        ------
        FileError
            The file is missing, truncated, damaged, of another kind, or written by a later format version.
        """
        return cls.from_file(Path(path), read_fold_file(path))

    @classmethod
    def from_file(cls, path: Path, content: FoldFile) -> Encoder:
        """Return the encoder that a file's content describes.

        Parameters
        ----------
        path : Path
            The file, as messages name it.
        content : FoldFile
            Its content, from `read_fold_file`.

        Returns
        -------
        Encoder

        Raises
        ------
        FileError
            The file is of another kind, or tensors are missing, too many, or don't fit each other.
        """
        tensors = content.tensors
        if content.format_name != cls.format_name:
            raise other_kind(path, content.format_name, "a linear fold")
        if not {"weight"} <= tensors.keys() <= {"weight", "bias"}:
            raise FileError(f"{path}: holds tensors {sorted(tensors)}, an encoder has weight and maybe bias")
        for name, rank in (("weight", 2), ("bias", 1)):
            if name in tensors and tensors[name].ndim != rank:
                raise FileError(
                    f"{path}: {name} has shape {tensors[name].shape}; an encoder has it of rank {rank}"
                )
        encoder: Encoder = content.build(path, cls, weight=tensors["weight"], bias=tensors.get("bias"))
        return encoder
