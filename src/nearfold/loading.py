"""Read whatever nearfold wrote: the one loader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nearfold.codecs.codec import load_any
from nearfold.errors import FileError
from nearfold.folds.fold import read_metadata
from nearfold.scan.checkpoint import SCAN_FORMAT, ScanCheckpoint
from nearfold.search.index import SearchIndex
from nearfold.search.storage import MANIFEST

__all__ = ["load"]


def load(path: str | os.PathLike[str]) -> Any:
    """Read what nearfold wrote, whatever it is; nothing in it is executed.

    Parameters
    ----------
    path : path
        The file of a fold, of a codec or of a scan's checkpoint, or the folder of a search index.

    Returns
    -------
    Encoder, MLPEncoder, Codec, ScanCheckpoint or SearchIndex
        What the file or folder holds.

    Raises
    ------
    FileError
        It is missing, truncated, damaged, written by a later format version, or nothing that nearfold wrote.

    See Also
    --------
    Encoder.load, Codec.load, SearchIndex.load, ScanCheckpoint.load : Read one kind and refuse the others.
    """
    target = Path(path)
    if target.is_dir():
        if not os.path.lexists(target / MANIFEST):
            raise FileError(
                f"{target}: is a folder without {MANIFEST}, so it is no search index; vectors are opened by "
                f"open_source"
            )
        return SearchIndex.load(target)
    if read_metadata(target).get("format") == SCAN_FORMAT:
        return ScanCheckpoint.load(target)
    return load_any(target)
