"""Whether what nearfold wrote is still what it wrote, by every byte: one door for all kinds of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nearfold._utils.files import checksum
from nearfold.bulk.folder import verify_folder
from nearfold.bulk.manifest import MANIFEST as FOLDED
from nearfold.codecs.verification import verify_file
from nearfold.errors import FileError, ParameterError
from nearfold.folds.fold import read_metadata
from nearfold.scan.checkpoint import SCAN_FORMAT, ScanCheckpoint
from nearfold.search.storage import MANIFEST as INDEX
from nearfold.search.storage import verify_index

__all__ = ["verify"]


def verify(path: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Read every byte of what nearfold wrote, and say what it is if it is whole.

    Parameters
    ----------
    path : str or path-like
        The folder of an index, a folder that `apply` filled, or the file of a fold, a codec or a scan.
    base : str or path-like, optional
        Where an index's file of full vectors is now, if it was moved.

    Returns
    -------
    dict of str to object
        The kind, by the name "kind", and what was found: how many rows or vectors, files and bytes were read,
        and digests.

    Raises
    ------
    FileError
        A file is missing, damaged or not what was written, and is named.
    ParameterError
        `base` is given for something other than an index.
    """
    target = Path(path)
    if os.path.lexists(target / INDEX):
        return {"kind": "index", **verify_index(target, base)._asdict()}
    if base is not None:
        raise ParameterError(f"{target}: base is for an index, which this is not; leave it out")
    if target.is_dir():
        if not os.path.lexists(target / FOLDED):
            raise FileError(
                f"{target}: holds neither {INDEX} nor {FOLDED}, so nothing tells what it should be; give an "
                f"index or a folder that `apply` finished"
            )
        return {"kind": "folded folder", **verify_folder(target)._asdict()}
    if read_metadata(target).get("format") == SCAN_FORMAT:
        scanned = ScanCheckpoint.load(target)
        size, digest = checksum(target)
        return {"kind": "scan", "rows": scanned.rows, "done": scanned.done, "bytes": size, "sha256": digest}
    return verify_file(target)._asdict()
