from ._utils.config import config_context as config_context
from ._utils.config import get_config as get_config
from ._utils.config import set_config as set_config
from .bulk.fit import fit_files as fit_files
from .bulk.folder import fold_folder as fold_folder
from .bulk.update import update_files as update_files
from .codecs.codec import Pipeline as Pipeline
from .codecs.fitting import fit_pipeline as fit_pipeline
from .errors import NearfoldError as NearfoldError
from .errors import NearfoldWarning as NearfoldWarning
from .evaluation.compare import compare as compare
from .evaluation.inspection import inspect_fold as inspect_fold
from .evaluation.recall import evaluate as evaluate
from .evaluation.streamed import evaluate_source as evaluate_source
from .evaluation.streamed import hold_out_rows as hold_out_rows
from .evaluation.sweep import sweep as sweep
from .folds.encoder import Encoder as Encoder
from .folds.fold import Fold as Fold
from .folds.loading import load as load
from .folds.mlp import MLPEncoder as MLPEncoder
from .io.vectors import open_source as open_source
from .methods.lpp import LPP as LPP
from .methods.manifold import UMAP as UMAP
from .methods.manifold import Isomap as Isomap
from .methods.mds import MDS as MDS
from .methods.mpad import MPAD as MPAD
from .methods.nearfold import NearFold as NearFold
from .methods.pca import PCA as PCA
from .methods.rae.estimator import RAE as RAE
from .methods.rae.network import MLPRAE as MLPRAE
from .methods.random import RandomProjection as RandomProjection
from .methods.truncation import Truncation as Truncation
from .methods.whitening import Whitening as Whitening
from .planning.plan import plan as plan
from .sample import load_sample as load_sample
from .scan.checkpoint import read_state as read_state
from .scan.engines import engine_for as engine_for
from .scan.moments import Moments as Moments
from .search.index import SearchIndex as SearchIndex
from .search.results import SearchResult as SearchResult
from .verification import verify as verify

__version__: str

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
    "SearchResult",
    "Truncation",
    "Whitening",
    "compare",
    "config_context",
    "engine_for",
    "evaluate",
    "evaluate_source",
    "fit_files",
    "fit_pipeline",
    "fold_folder",
    "get_config",
    "hold_out_rows",
    "inspect_fold",
    "load",
    "load_sample",
    "open_source",
    "plan",
    "read_state",
    "set_config",
    "sweep",
    "update_files",
    "verify",
]
