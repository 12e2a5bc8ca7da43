"""Saving the encoders of a comparison."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from nearfold._utils.files import check_kept, checksum, open_regular, os_errors, replacing
from nearfold._utils.schema import Sha256, checked_json, encoded
from nearfold.errors import FileError
from nearfold.evaluation.compare import Comparison
from nearfold.folds.fold import fold_checksum
from nearfold.methods.registry import METHODS

__all__ = ["save_encoders"]

# What of a folder was written here, so that nothing else is ever replaced: no user named these files.
_MANIFEST = "encoders.json"


class _Manifest(msgspec.Struct):
    """The SHA-256 of each encoder, by the name of its file."""

    format: str
    files: dict[str, list[Sha256]]


_FORMAT = "nearfold.encoders"


def save_encoders(comparison: Comparison, folder: Path) -> list[Path]:
    """Write each entry's encoder into `folder`, made if missing, and return the paths.

    Folds that no file can hold (see `Method.saves`) are left out.

    Raises
    ------
    FileError
        The folder can't be written, or a file of an encoder's name is there that an earlier run
        did not write.
    """
    check_kept(folder)
    with os_errors(folder, "can't be made a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    folds = {
        f"{entry.method}-{entry.evaluation.metric}-{entry.encoder.n_components}.safetensors": entry.encoder
        for entry in comparison.entries
        if METHODS[entry.method].saves
    }
    before = _written(folder)
    for name in folds:
        path = folder / name
        if os.path.lexists(path) and (path.is_symlink() or checksum(path)[1] not in before.get(name, [])):
            raise FileError(f"{path}: is there and was not written by an earlier run; name another folder")
    after = {name: [fold_checksum(fold)] for name, fold in folds.items()}
    # Before the files and after: a run that is killed between leaves none that nobody answers for.
    _write(folder, {name: [*before.get(name, []), *after.get(name, [])] for name in {**before, **after}})
    for name, fold in folds.items():
        fold.save(folder / name)
    _write(folder, {**before, **after})
    return [folder / name for name in folds]


def _written(folder: Path) -> dict[str, list[str]]:
    """Return what earlier runs wrote."""
    path = folder / _MANIFEST
    if not os.path.lexists(path):
        return {}
    with open_regular(path) as file:
        found = checked_json(file.read(), _Manifest, str(path), "name another folder")
    if found.format != _FORMAT:
        raise FileError(f"{path}: is no list of encoders of nearfold; name another folder")
    return found.files


def _write(folder: Path, files: dict[str, list[str]]) -> None:
    with replacing(folder / _MANIFEST) as file:
        file.write(encoded(_Manifest(_FORMAT, files)))
