"""Saving the encoders of a comparison."""

from __future__ import annotations

from pathlib import Path

from nearfold.errors import FileError
from nearfold.evaluation.compare import Comparison
from nearfold.files import cause
from nearfold.methods.registry import METHODS

__all__ = ["save_encoders"]


def save_encoders(comparison: Comparison, folder: Path) -> list[Path]:
    """Write each entry's encoder into `folder`, made if missing, and return the paths.

    Folds that no file can hold (see `Method.saves`) are left out.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: can't be made a folder: {cause(error)}") from error
    paths = []
    for entry in comparison.entries:
        if not METHODS[entry.method].saves:
            continue
        path = folder / f"{entry.method}-{entry.judgement.metric}-{entry.encoder.n_components}.safetensors"
        entry.encoder.save(path)
        paths.append(path)
    return paths
