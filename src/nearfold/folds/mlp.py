"""The non-linear fold: a ReLU network, optionally added to a linear map, applied with numpy alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Float64, Metric, as_rows
from nearfold.errors import DataError, FileError
from nearfold.folds.fold import Fold, FoldFile, frozen_array, other_kind, read_fold_file

__all__ = ["MLPEncoder"]

Layer = tuple[Float32, Float32]


@dataclass(frozen=True, eq=False, repr=False)
class MLPEncoder(Fold):
    """A ReLU network z = S x + W_L relu(... relu(W_1 x + b_1) ...) + b_L, from d to m dimensions.

    Parameters
    ----------
    layers : sequence of (ndarray, ndarray)
        The weights W_i, of shape (out_i, in_i), and biases b_i, of shape (out_i,), from the input (in_1 = d)
        to the output (out_L = m), as float32. One layer is a linear map with bias.
    skip : ndarray of shape (m, d), float32, optional
        The matrix S of the linear map that the network corrects. By default it is zero.
    metric, method, parameters, facts
        See `Encoder`.

    Raises
    ------
    DataError
        There is no layer, the shapes don't fit each other, or a value is not finite.
    ParameterError
        The metric is unknown, or JSON can't hold the parameters or the facts.

    Examples
    --------
    >>> import numpy as np
    >>> layer = np.eye(2, 3), np.zeros(2)
    >>> MLPEncoder([layer, (np.ones((1, 2)), np.ones(1))]).transform([[1, -2, 3]])
    array([[2.]], dtype=float32)
    """

    layers: Sequence[Layer]
    skip: Float32 | None = None
    metric: Metric = "cosine"
    method: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    format_name: ClassVar[str] = "nearfold.mlp"

    def __post_init__(self) -> None:
        layers = tuple(
            (
                frozen_array(as_rows(weight, "a layer's weight"), "a layer's weight"),
                frozen_array(np.asarray(bias)[None, :], "a layer's bias")[0],
            )
            for weight, bias in self.layers
        )
        if not layers:
            raise DataError("layers is empty; a network has at least one")
        width = layers[0][0].shape[1]
        for number, (weight, bias) in enumerate(layers):
            if weight.shape[1] != width or bias.shape != (len(weight),):
                raise DataError(
                    f"layer {number} has a weight of shape {weight.shape} and a bias of shape {bias.shape} "
                    f"where its input has {width} numbers"
                )
            width = len(weight)
        skip = None if self.skip is None else frozen_array(as_rows(self.skip, "skip"), "skip")
        if skip is not None and skip.shape != (width, layers[0][0].shape[1]):
            raise DataError(
                f"skip has shape {skip.shape} beside a network from {layers[0][0].shape[1]} to {width}"
            )
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "skip", skip)
        self._freeze_origin()

    @property
    def n_components(self) -> int:
        """The number m of reduced dimensions."""
        return len(self.layers[-1][0])

    @property
    def n_features(self) -> int:
        """The number d of dimensions of the input."""
        return int(self.layers[0][0].shape[1])

    def _apply(self, vectors: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        hidden = vectors
        last = len(self.layers) - 1
        for number, (weight, bias) in enumerate(self.layers):
            hidden = hidden @ weight.T
            hidden += bias
            if number < last:
                # np.maximum keeps NaN, so that the check of the result still finds a bad row.
                np.maximum(hidden, 0, out=hidden)
        if self.skip is not None:
            hidden += vectors @ self.skip.T
        out[...] = hidden

    def jacobian(self, x: npt.ArrayLike) -> Float64:
        """Return the Jacobian matrix dz/dx at one point.

        Parameters
        ----------
        x : array-like of shape (d,)
            The point.

        Returns
        -------
        ndarray of shape (m, d), float64
        """
        hidden = np.asarray(x, np.float64)
        slope = np.eye(self.n_features)
        last = len(self.layers) - 1
        for number, (weight, bias) in enumerate(self.layers):
            hidden = weight @ hidden + bias
            slope = weight @ slope
            if number < last:
                active = hidden > 0
                hidden, slope = hidden * active, slope * active[:, None]
        total: Float64 = slope if self.skip is None else slope + self.skip
        return total

    def tensors(self) -> dict[str, Float32]:
        """Return the weights by name: "layers.<i>.weight", "layers.<i>.bias", and if there is one "skip"."""
        tensors = {} if self.skip is None else {"skip": self.skip}
        for number, (weight, bias) in enumerate(self.layers):
            tensors |= {f"layers.{number}.weight": weight, f"layers.{number}.bias": bias}
        return tensors

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MLPEncoder:
        """Read a network that `save` wrote. Nothing in the file is executed.

        Parameters
        ----------
        path : str or path
            The safetensors file.

        Returns
        -------
        MLPEncoder

        Raises
        ------
        FileError
            The file is missing, truncated, damaged, of another kind, or written by a later format version.
        """
        return cls.from_file(Path(path), read_fold_file(path))

    @classmethod
    def from_file(cls, path: Path, content: FoldFile) -> MLPEncoder:
        """Return the network that a file's content describes.

        Parameters
        ----------
        path : Path
            The file, as messages name it.
        content : FoldFile
            Its content, from `read_fold_file`.

        Returns
        -------
        MLPEncoder

        Raises
        ------
        FileError
            The file is of another kind, or tensors are missing, too many, or don't fit each other.
        """
        if content.format_name != cls.format_name:
            raise other_kind(path, content.format_name, "a non-linear fold")
        tensors = dict(content.tensors)
        skip, layers = tensors.pop("skip", None), []
        for number in range(len(tensors) // 2):
            pair = tensors.pop(f"layers.{number}.weight", None), tensors.pop(f"layers.{number}.bias", None)
            if pair[0] is None or pair[1] is None or pair[0].ndim != 2 or pair[1].ndim != 1:
                raise FileError(f"{path}: layer {number} is missing or has tensors of the wrong rank")
            layers.append(pair)
        if tensors:
            raise FileError(f"{path}: holds unknown tensors {sorted(tensors)}; nearfold did not write it")
        encoder: MLPEncoder = content.build(path, cls, layers=layers, skip=skip)
        return encoder
