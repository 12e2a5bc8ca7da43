"""How a module of this package registers the methods that it holds: a dictionary named OFFERS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nearfold.methods.base import FoldEstimator

__all__ = ["Method"]


@dataclass(frozen=True)
class Method:
    """One way to learn a fold.

    Parameters
    ----------
    estimator
        The class.
    summary
        One line for tables and help.
    rank
        Its place in tables: simple ones first.
    fixed
        Parameters that make this variant of the class.
    linear
        Whether the result is a linear `Encoder`, which saves and applies anywhere.
    needs
        The optional module it is learned with, and the extra that brings it.
    saves
        Whether its folds can be saved; those that only their fitted model can apply can't.
    """

    estimator: type[FoldEstimator]
    summary: str
    rank: int
    fixed: dict[str, Any] = field(default_factory=dict)
    linear: bool = True
    needs: tuple[str, str] | None = None
    saves: bool = True
