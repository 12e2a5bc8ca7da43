"""Folds inside faiss indexes, which faiss alone can read: a transform in front of any index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import faiss

from nearfold._utils.files import replacing
from nearfold.codecs.projections import linear_transform
from nearfold.errors import ParameterError
from nearfold.folds.fold import Fold
from nearfold.integrations.linear import linear_only, normalized

__all__ = ["faiss_index", "faiss_transforms", "transformed_index", "write_faiss"]


def faiss_transforms(fold: Fold, *, normalize: bool | None = None) -> list[Any]:
    """Return a linear fold as transforms of faiss, in the order in which they are applied.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold.
    normalize : bool, optional
        Whether to add a transform that scales folded vectors to norm 1. The default is to add it where they
        are searched by cosine.

    Returns
    -------
    list of faiss.VectorTransform
        One linear transform, and a `faiss.NormalizationTransform` behind it where one is wanted.

    Raises
    ------
    ParameterError
        The fold is a network.
    """
    encoder = linear_only(fold, "a faiss index")
    linear = linear_transform(encoder.weight, encoder.bias)
    if not normalized(fold, normalize):
        return [linear]
    return [linear, faiss.NormalizationTransform(encoder.n_components, 2.0)]


def faiss_index(fold: Fold, factory: str = "Flat", *, normalize: bool | None = None) -> Any:
    """Return an empty faiss index that takes full vectors, folds them, and searches the folded ones.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold from d to m dimensions.
    factory : str, default="Flat"
        The index that holds the folded vectors, as `faiss.index_factory` names it, such as "HNSW32" or
        "IVF1024,SQ8".
    normalize : bool, optional
        As for `faiss_transforms`.

    Returns
    -------
    faiss.IndexPreTransform
        An index of d dimensions. It searches by inner product for the metrics cosine and ip, and by squared
        Euclidean distance for l2. It must be trained where the inner index needs training.

    Raises
    ------
    ParameterError
        The fold is a network, or faiss does not know the factory string.
    """
    metric = faiss.METRIC_L2 if fold.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    try:
        inner = faiss.index_factory(fold.n_components, factory, metric)
    except RuntimeError as error:
        raise ParameterError(f"index={factory!r} is not known to faiss: {error}") from error
    return transformed_index(faiss_transforms(fold, normalize=normalize), inner)


def transformed_index(transforms: Sequence[Any], inner: Any) -> Any:
    """Return a faiss index that applies transforms in order, and then adds to or searches `inner`."""
    index = faiss.IndexPreTransform(inner)
    index.referenced_objects = [inner, *transforms]
    for transform in reversed(transforms):
        index.prepend_transform(transform)
    return index


def write_faiss(
    fold: Fold, path: str | os.PathLike[str], factory: str = "Flat", *, normalize: bool | None = None
) -> None:
    """Write the empty index of `faiss_index` to a file that `faiss.read_index` reads, atomically.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold.
    path : path
        The file to write.
    factory : str, default="Flat"
        As for `faiss_index`.
    normalize : bool, optional
        As for `faiss_transforms`.

    Raises
    ------
    ParameterError
        As `faiss_index` raises it.
    FileError
        The file can't be written.
    """
    content = faiss.serialize_index(faiss_index(fold, factory, normalize=normalize))
    with replacing(path) as file:
        file.write(content.tobytes())
