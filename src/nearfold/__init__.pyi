from ._utils.config import config_context as config_context
from ._utils.config import get_config as get_config
from ._utils.config import set_config as set_config
from .bulk.apply import apply as apply
from .bulk.folder import Written as Written
from .bulk.update import Update as Update
from .bulk.update import update as update
from .codecs.codec import Codec as Codec
from .codecs.fitting import fit_codec as fit_codec
from .errors import NearfoldError as NearfoldError
from .errors import NearfoldWarning as NearfoldWarning
from .evaluation.bounds import NeighborBounds as NeighborBounds
from .evaluation.compare import Comparison as Comparison
from .evaluation.compare import ComparisonEntry as ComparisonEntry
from .evaluation.compare import compare as compare
from .evaluation.distortion import Distortion as Distortion
from .evaluation.drift import DriftResult as DriftResult
from .evaluation.drift import DriftStats as DriftStats
from .evaluation.drift import add_drift_stats as add_drift_stats
from .evaluation.drift import drift as drift
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.inspection import Inspection as Inspection
from .evaluation.inspection import inspect as inspect
from .evaluation.intervals import Estimate as Estimate
from .evaluation.labels import LabelResult as LabelResult
from .evaluation.qrels import Qrels as Qrels
from .evaluation.recall import EvaluationResult as EvaluationResult
from .evaluation.spectrum import Spectrum as Spectrum
from .evaluation.sweep import Sweep as Sweep
from .evaluation.sweep import SweepPoint as SweepPoint
from .evaluation.sweep import sweep as sweep
from .folds.encoder import Encoder as Encoder
from .folds.fold import Fold as Fold
from .folds.mlp import MLPEncoder as MLPEncoder
from .folds.origin import Facts as Facts
from .io.vectors import open_source as open_source
from .loading import load as load
from .methods.isometric import Isometric as Isometric
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
from .methods.spectemp import SpectralTempering as SpectralTempering
from .methods.truncation import Truncation as Truncation
from .methods.whitening import Whitening as Whitening
from .planning.plan import Plan as Plan
from .planning.plan import plan as plan
from .sample import load_sample as load_sample
from .scan.checkpoint import ScanCheckpoint as ScanCheckpoint
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
    "Codec",
    "Comparison",
    "ComparisonEntry",
    "Distortion",
    "DriftResult",
    "DriftStats",
    "Encoder",
    "Estimate",
    "EvaluationResult",
    "Facts",
    "Fold",
    "Inspection",
    "Isomap",
    "Isometric",
    "LabelResult",
    "MLPEncoder",
    "Moments",
    "NearFold",
    "NearfoldError",
    "NearfoldWarning",
    "NeighborBounds",
    "Plan",
    "Qrels",
    "RandomProjection",
    "ScanCheckpoint",
    "SearchIndex",
    "SearchResult",
    "SpectralTempering",
    "Spectrum",
    "Sweep",
    "SweepPoint",
    "Truncation",
    "Update",
    "Whitening",
    "Written",
    "add_drift_stats",
    "apply",
    "compare",
    "config_context",
    "drift",
    "evaluate",
    "fit_codec",
    "get_config",
    "inspect",
    "load",
    "load_sample",
    "open_source",
    "plan",
    "set_config",
    "sweep",
    "update",
    "verify",
]
