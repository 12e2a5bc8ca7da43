"""What the formats that hold nothing but matrices have in common."""

from __future__ import annotations

from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold

__all__ = ["linear_only", "normalized"]


def linear_only(fold: Fold, what: str) -> Encoder:
    """Return a linear fold itself, and refuse any other.

    Parameters
    ----------
    fold : Fold
        The fold to write.
    what : str
        The format, which begins the message of the error.

    Returns
    -------
    Encoder
        The same fold.

    Raises
    ------
    ParameterError
        The fold is a network.
    """
    if not isinstance(fold, Encoder):
        raise ParameterError(f"{what} holds linear folds only, and this one is a network; export it as ONNX")
    return fold


def normalized(fold: Fold, normalize: bool | None) -> bool:
    """Return whether folded vectors are to be scaled to norm 1.

    Parameters
    ----------
    fold : Fold
        The fold that makes the vectors.
    normalize : bool or None
        What the caller asks for. None asks for it where folded vectors are searched by cosine.

    Returns
    -------
    bool
    """
    return fold.metric == "cosine" if normalize is None else normalize
