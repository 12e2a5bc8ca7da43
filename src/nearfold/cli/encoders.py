"""Saving the encoders of a comparison."""

from __future__ import annotations

from pathlib import Path

from nearfold.errors import FileError
from nearfold.evaluation.compare import Comparison
from nearfold.files import cause

__all__ = ["save_encoders"]


def save_encoders(comparison: Comparison, folder: Path) -> list[Path]:
    """Write each entry's encoder into `folder`, made if missing, and return the paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: can't be made a folder: {cause(error)}") from error
    paths = []
    for entry in comparison.entries:
        path = folder / f"{entry.method}-{entry.judgement.metric}-{entry.encoder.n_components}.safetensors"
        entry.encoder.save(path)
        paths.append(path)
    return paths
