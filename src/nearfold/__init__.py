"""nearfold folds embedding vectors to fewer dimensions and keeps their nearest neighbours.

The names below are all there is to import; each is loaded when first used, so that applying an
encoder imports numpy and nothing heavier.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nearfold.version import __version__ as __version__

if TYPE_CHECKING:
    from nearfold.encoder import Encoder
    from nearfold.errors import NearfoldError, NearfoldWarning
    from nearfold.evaluation.compare import compare
    from nearfold.evaluation.inspection import inspect_fold
    from nearfold.evaluation.judge import evaluate
    from nearfold.evaluation.streamed import evaluate_source, hold_out_rows
    from nearfold.evaluation.sweep import sweep
    from nearfold.fold import Fold
    from nearfold.io.vectors import open_source
    from nearfold.loading import load
    from nearfold.methods.lpp import LPP
    from nearfold.methods.manifold import UMAP, Isomap
    from nearfold.methods.mds import MDS
    from nearfold.methods.mpad import MPAD
    from nearfold.methods.nearfold import NearFold
    from nearfold.methods.pca import PCA
    from nearfold.methods.rae import RAE
    from nearfold.methods.rae_mlp import MLPRAE
    from nearfold.methods.random import RandomProjection
    from nearfold.methods.truncation import Truncation
    from nearfold.methods.whitening import Whitening
    from nearfold.mlp import MLPEncoder
    from nearfold.moments import Moments
    from nearfold.pipeline.fitting import fit_pipeline
    from nearfold.pipeline.pipeline import Pipeline
    from nearfold.planning.choice import plan
    from nearfold.sample import load_sample
    from nearfold.scale.engines import engine_for
    from nearfold.scale.fit import fit_files
    from nearfold.scale.folder import fold_folder
    from nearfold.scale.state import read_state
    from nearfold.scale.update import update_files
    from nearfold.search.index import SearchIndex
    from nearfold.verification import verify

__all__ = [
    "LPP",
    "MDS",
    "MLPRAE",
    "MPAD",
    "PCA",
    "RAE",
    "UMAP",
    "Encoder",
    "Fold",
    "Isomap",
    "MLPEncoder",
    "Moments",
    "NearFold",
    "NearfoldError",
    "NearfoldWarning",
    "Pipeline",
    "RandomProjection",
    "SearchIndex",
    "Truncation",
    "Whitening",
    "compare",
    "engine_for",
    "evaluate",
    "evaluate_source",
    "fit_files",
    "fit_pipeline",
    "fold_folder",
    "hold_out_rows",
    "inspect_fold",
    "load",
    "load_sample",
    "open_source",
    "plan",
    "read_state",
    "sweep",
    "update_files",
    "verify",
]

_HOMES = {
    "LPP": "methods.lpp",
    "MDS": "methods.mds",
    "MLPRAE": "methods.rae_mlp",
    "MPAD": "methods.mpad",
    "PCA": "methods.pca",
    "RAE": "methods.rae",
    "UMAP": "methods.manifold",
    "Encoder": "encoder",
    "Fold": "fold",
    "Isomap": "methods.manifold",
    "MLPEncoder": "mlp",
    "Moments": "moments",
    "NearFold": "methods.nearfold",
    "NearfoldError": "errors",
    "NearfoldWarning": "errors",
    "Pipeline": "pipeline.pipeline",
    "RandomProjection": "methods.random",
    "SearchIndex": "search.index",
    "Truncation": "methods.truncation",
    "Whitening": "methods.whitening",
    "compare": "evaluation.compare",
    "engine_for": "scale.engines",
    "evaluate": "evaluation.judge",
    "evaluate_source": "evaluation.streamed",
    "fit_files": "scale.fit",
    "fit_pipeline": "pipeline.fitting",
    "fold_folder": "scale.folder",
    "hold_out_rows": "evaluation.streamed",
    "inspect_fold": "evaluation.inspection",
    "load": "loading",
    "load_sample": "sample",
    "open_source": "io.vectors",
    "plan": "planning.choice",
    "read_state": "scale.state",
    "sweep": "evaluation.sweep",
    "update_files": "scale.update",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nearfold' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"nearfold.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
