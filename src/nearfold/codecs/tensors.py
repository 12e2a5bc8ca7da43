"""What the parts of a codec keep in its file, and how their codes are compared."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy.typing as npt

from nearfold._utils.arrays import Float32, check_products

__all__ = ["Score", "Tensors", "exact_tensors"]

Tensors: TypeAlias = dict[str, npt.NDArray[Any]]

Score: TypeAlias = Literal["ip", "l2"]
"""The comparison of a query with what a code stands for: inner product or Euclidean distance."""


def exact_tensors(name: str, tensors: Tensors, shapes: dict[str, tuple[int | None, ...]]) -> list[Float32]:
    """Return tensors in the order of `shapes`, or refuse others than those.

    Parameters
    ----------
    name : str
        The name of the quantiser, for messages.
    tensors : dict of str to ndarray
        The tensors of a file; that their numbers are finite was checked when it was read.
    shapes : dict of str to tuple
        The shape of each tensor by name, with None where any size will do.

    Raises
    ------
    ValueError
        A tensor is missing, unknown, or of another shape.
    """
    found = {key: tensor.shape for key, tensor in tensors.items()}
    if found.keys() != shapes.keys():
        raise ValueError(f"{name} has tensors {sorted(found)}, not {sorted(shapes)}")
    for key, shape in shapes.items():
        fits = len(shape) == len(found[key]) and all(
            a in (b, None) for a, b in zip(shape, found[key], strict=True)
        )
        if not fits:
            wanted = tuple("any" if size is None else size for size in shape)
            raise ValueError(f"{name} has {key} of shape {found[key]}, not {wanted}")
        # faiss doesn't come back from some products that overflow.
        check_products(tensors[key].reshape(1, -1), "l2", f"{name}: {key}", alone=False)
    return [tensors[key] for key in shapes]
