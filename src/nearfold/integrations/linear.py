"""What formats that hold matrices alone can take."""

from __future__ import annotations

from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold

__all__ = ["linear_only", "normalized"]


def linear_only(fold: Fold, what: str) -> Encoder:
    """Return a linear fold itself.

    Raises
    ------
    ParameterError
        The fold is a network.
    """
    if not isinstance(fold, Encoder):
        raise ParameterError(f"{what} holds linear folds only, and this one is a network; export it as ONNX")
    return fold


def normalized(fold: Fold, normalize: bool | None) -> bool:
    """Return whether folded vectors are to be scaled to norm 1: where cosine is searched, unless said."""
    return fold.metric == "cosine" if normalize is None else normalize
