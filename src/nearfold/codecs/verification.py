"""Verify that a saved fold or codec is as it was written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from nearfold._utils.files import checksum, open_regular
from nearfold.codecs.codec import load_any
from nearfold.errors import FileError
from nearfold.folds.card import card_path
from nearfold.folds.fold import read_metadata
from nearfold.folds.origin import DIGEST

__all__ = ["VerifiedFile", "verify_file"]

_CARD_BYTES = 1 << 20
_CHECKSUM = re.compile(rb"SHA-256 ([0-9a-f]{64})")


class VerifiedFile(NamedTuple):
    """The result of reading all of a file of a fold or codec.

    Parameters
    ----------
    kind : str
        The format that its metadata names, such as "nearfold.encoder".
    bytes : int
        The size of the file.
    sha256 : str
        The digest of the file.
    sealed : bool
        Whether it holds a digest of its own content, which was compared; files of nearfold 0.1 may not.
    card : bool
        Whether the card beside it was compared too; False where there is none.
    """

    kind: str
    bytes: int
    sha256: str
    sealed: bool
    card: bool


def verify_file(path: str | os.PathLike[str]) -> VerifiedFile:
    """Check that a file of a fold or codec is sound, and has not changed since it was written.

    Parameters
    ----------
    path : str or path-like
        A file that `Fold.save` or `Codec.save` wrote.

    Raises
    ------
    FileError
        The file is missing, holds no fold or codec, is damaged, or its content is not what its own digest
        or the card beside it says.
    """
    target = Path(path)
    load_any(target)
    metadata = read_metadata(target)
    size, digest = checksum(target)
    card = card_path(target)
    said = _CHECKSUM.search(_content(card)) if card.exists() else None
    if said is not None and said[1].decode() != digest:
        raise FileError(
            f"{target}: is not the file that {card.name} was written for; save the fold again, or remove the "
            f"card where another fold was put in its place"
        )
    return VerifiedFile(
        kind=metadata["format"],
        bytes=size,
        sha256=digest,
        sealed=DIGEST in metadata,
        card=said is not None,
    )


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(_CARD_BYTES)
