"""nearfold folds embedding vectors to fewer dimensions and keeps their nearest neighbours.

The names below are all there is to import; each is loaded when first used, so that applying an
encoder imports numpy and nothing heavier.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfold.encoder import Encoder
    from nearfold.errors import NearfoldError, NearfoldWarning
    from nearfold.evaluation.compare import compare
    from nearfold.evaluation.judge import evaluate
    from nearfold.methods.nearfold import NearFold
    from nearfold.methods.pca import PCA
    from nearfold.methods.rae import RAE
    from nearfold.moments import Moments
    from nearfold.sample import load_sample

__version__ = "0.1.0"

__all__ = [
    "PCA",
    "RAE",
    "Encoder",
    "Moments",
    "NearFold",
    "NearfoldError",
    "NearfoldWarning",
    "compare",
    "evaluate",
    "load_sample",
]

_HOMES = {
    "PCA": "methods.pca",
    "RAE": "methods.rae",
    "Encoder": "encoder",
    "Moments": "moments",
    "NearFold": "methods.nearfold",
    "NearfoldError": "errors",
    "NearfoldWarning": "errors",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.judge",
    "load_sample": "sample",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nearfold' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"nearfold.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
