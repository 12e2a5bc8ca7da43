"""Warnings that point to the user's own line of code, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from nearfold.errors import NearfoldWarning

__all__ = ["warn"]

_PACKAGE = str(Path(__file__).parents[1])


def warn(message: str) -> None:
    """Give a NearfoldWarning that points to the line of code that called nearfold."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, NearfoldWarning, stacklevel=level)
