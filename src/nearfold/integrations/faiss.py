"""Folds inside faiss indexes, which plain faiss reads: a transform in front of any index."""

from __future__ import annotations

import os
from typing import Any

import faiss

from nearfold._utils.files import replacing
from nearfold.codecs.projections import linear_transform
from nearfold.errors import ParameterError
from nearfold.folds.fold import Fold
from nearfold.integrations.linear import linear_only, normalized

__all__ = ["faiss_index", "faiss_transforms", "write_faiss"]


def faiss_transforms(fold: Fold, *, normalize: bool | None = None) -> list[Any]:
    """Return a linear fold as faiss VectorTransforms, in the order in which they are applied.

    Parameters
    ----------
    fold
        An `Encoder`.
    normalize
        Add a transform that scales to norm 1; None to do so where folded vectors are searched by cosine.

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
    """Return an empty faiss index that takes full vectors, folds them and searches folded ones.

    Parameters
    ----------
    fold
        An `Encoder`.
    factory
        What holds the folded vectors, as `faiss.index_factory` names it: "Flat", "HNSW32", "IVF1024,SQ8".
    normalize
        See `faiss_transforms`.

    Returns
    -------
    faiss.IndexPreTransform
        By inner product for cosine and ip, by squared Euclidean distance for l2. Train it where the inner
        index needs that.

    Raises
    ------
    ParameterError
        The fold is a network, or faiss doesn't know the factory string.
    """
    metric = faiss.METRIC_L2 if fold.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    try:
        inner = faiss.index_factory(fold.n_components, factory, metric)
    except RuntimeError as error:
        raise ParameterError(f"index={factory!r} is not known to faiss: {error}") from error
    index = faiss.IndexPreTransform(inner)
    index.referenced_objects = [inner]
    for transform in reversed(faiss_transforms(fold, normalize=normalize)):
        index.prepend_transform(transform)
        index.referenced_objects.append(transform)
    return index


def write_faiss(
    fold: Fold, path: str | os.PathLike[str], factory: str = "Flat", *, normalize: bool | None = None
) -> None:
    """Write an empty index to a file that `faiss.read_index` reads, atomically; see `faiss_index`.

    Raises
    ------
    ParameterError
        As `faiss_index`.
    FileError
        The file can't be written.
    """
    content = faiss.serialize_index(faiss_index(fold, factory, normalize=normalize))
    with replacing(path) as file:
        file.write(content.tobytes())
