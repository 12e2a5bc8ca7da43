"""Reading of saved folds of any kind."""

from __future__ import annotations

import os
from pathlib import Path

from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold, FoldFile, other_kind, read_fold_file
from nearfold.folds.mlp import MLPEncoder

__all__ = ["fold_of", "load_fold"]

_KINDS: dict[str, type[Encoder] | type[MLPEncoder]] = {
    kind.format_name: kind for kind in (Encoder, MLPEncoder)
}


def load_fold(path: str | os.PathLike[str]) -> Fold:
    """Read a fold that `Fold.save` wrote. Nothing in the file is executed.

    Parameters
    ----------
    path : str or path
        The safetensors file.

    Returns
    -------
    Encoder or MLPEncoder

    Raises
    ------
    FileError
        The file is missing, truncated, damaged, not a fold, or written by a later format version.
    """
    return fold_of(Path(path), read_fold_file(path))


def fold_of(path: Path, content: FoldFile) -> Fold:
    """Return the fold that a file's content describes.

    Raises
    ------
    FileError
        The file holds no fold alone, or its tensors don't fit each other.
    """
    if content.format_name not in _KINDS:
        raise other_kind(path, content.format_name, "a fold alone")
    return _KINDS[content.format_name].from_file(path, content)
