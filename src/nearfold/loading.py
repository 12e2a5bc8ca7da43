"""Read a saved fold of any kind."""

from __future__ import annotations

import os
from pathlib import Path

from nearfold.encoder import Encoder
from nearfold.errors import FileError
from nearfold.fold import Fold, read_fold_file
from nearfold.mlp import MLPEncoder

__all__ = ["load"]

_KINDS: dict[str, type[Encoder] | type[MLPEncoder]] = {
    kind.format_name: kind for kind in (Encoder, MLPEncoder)
}


def load(path: str | os.PathLike[str]) -> Fold:
    """Read what `save` of an `Encoder` or `MLPEncoder` wrote; nothing in the file is executed.

    Raises
    ------
    FileError
        Missing, truncated, corrupt, not a fold, or written by a later format version.
    """
    content = read_fold_file(path)
    if content.format_name not in _KINDS:
        raise FileError(f"{path}: holds a fold of kind {content.format_name!r}; upgrade nearfold")
    return _KINDS[content.format_name].from_file(Path(path), content)
