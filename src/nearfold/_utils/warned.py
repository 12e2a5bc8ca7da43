"""Warnings that name the user's own line, however deep in the package they are given."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from nearfold.errors import NearfoldWarning

__all__ = ["warn"]

_PACKAGE = str(Path(__file__).parents[1])


def warn(message: str) -> None:
    """Give a NearfoldWarning that names the line that called nearfold."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, NearfoldWarning, stacklevel=level)
