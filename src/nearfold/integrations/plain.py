"""Linear folds as plain numbers for other languages: JSON and .npy."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.files import replacing
from nearfold.errors import ParameterError
from nearfold.folds.fold import Fold
from nearfold.integrations.linear import linear_only

__all__ = ["numbers", "write_json", "write_npy"]


def write_json(fold: Fold, path: str | os.PathLike[str]) -> None:
    """Write a linear fold as a JSON object, atomically.

    The object has the keys `metric`, `method`, `n_features`, `n_components`, `weight` (m lists of d numbers)
    and `bias` (m numbers, or null). A vector x folds to weight x + bias. Each number is the shortest decimal
    that reads back as the same float32.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold from d to m dimensions.
    path : path
        The file to write.

    Raises
    ------
    ParameterError
        The fold is a network.
    FileError
        The file can't be written.
    """
    encoder = linear_only(fold, "JSON")
    head = {
        "metric": encoder.metric,
        "method": encoder.method,
        "n_features": encoder.n_features,
        "n_components": encoder.n_components,
    }
    bias = "null" if encoder.bias is None else numbers(encoder.bias)
    rows = ",\n  ".join(numbers(row) for row in encoder.weight)
    with replacing(path) as file:
        file.write(f'{json.dumps(head)[:-1]},\n "bias": {bias},\n "weight": [\n  {rows}\n]}}\n'.encode())


def write_npy(fold: Fold, path: str | os.PathLike[str]) -> None:
    """Write the weight of a linear fold, shape (m, d) and dtype float32, as .npy, atomically.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold without bias.
    path : path
        The file to write.

    Raises
    ------
    ParameterError
        The fold is a network, or has a bias, for which the format has no place.
    FileError
        The file can't be written.
    """
    encoder = linear_only(fold, ".npy")
    if encoder.bias is not None:
        raise ParameterError("a .npy file has no place for this fold's bias; export it as JSON or ONNX")
    with replacing(path) as file:
        np.save(file, encoder.weight, allow_pickle=False)


def numbers(values: npt.NDArray[Any]) -> str:
    """Return numbers (n,) as a JSON list that reads back as the same float32 or integers."""
    # str of a float32 scalar is the shortest decimal that reads back as the same float32.
    return "[" + ", ".join(map(str, values)) + "]"
