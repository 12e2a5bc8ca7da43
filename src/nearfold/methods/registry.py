"""The methods by name, in the one list that the command line and comparisons read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nearfold._utils.extras import require_extra
from nearfold.errors import ParameterError
from nearfold.methods.base import FoldEstimator
from nearfold.methods.isometric import Isometric
from nearfold.methods.lpp import LPP
from nearfold.methods.manifold import UMAP, Isomap
from nearfold.methods.mds import MDS
from nearfold.methods.mpad import MPAD
from nearfold.methods.nearfold import NearFold
from nearfold.methods.pca import PCA
from nearfold.methods.rae.estimator import RAE
from nearfold.methods.rae.network import MLPRAE
from nearfold.methods.random import RandomProjection
from nearfold.methods.spectemp import SpectralTempering
from nearfold.methods.truncation import Truncation
from nearfold.methods.whitening import Whitening

__all__ = ["LINEAR", "METHODS", "Method", "make", "resolve_methods"]


@dataclass(frozen=True)
class Method:
    """One way to learn a fold.

    Parameters
    ----------
    estimator : type
        Class of the estimator.
    summary : str
        One line for tables and help.
    fixed : dict, default={}
        Parameters that make this variant of the class.
    linear : bool, default=True
        Whether the result is a linear `Encoder`, which saves and applies anywhere.
    needs : tuple of str, or None, default=None
        Optional module that it is learned with, and the extra that brings it.
    saves : bool, default=True
        Whether its folds can be saved; those that only their fitted model can apply can't.
    """

    estimator: type[FoldEstimator]
    summary: str
    fixed: dict[str, Any] = field(default_factory=dict)
    linear: bool = True
    needs: tuple[str, str] | None = None
    saves: bool = True


METHODS: dict[str, Method] = {
    "truncation": Method(Truncation, "the first dimensions, as Matryoshka models allow"),
    "random-gaussian": Method(RandomProjection, "random directions"),
    "random-sparse": Method(RandomProjection, "random sparse directions", {"kind": "sparse"}),
    "random-rotation": Method(RandomProjection, "a random rotation, then truncation", {"kind": "rotation"}),
    "lpp": Method(LPP, "locality preserving projections"),
    "mpad": Method(MPAD, "largest differences of the nearest pairs (arXiv 2504.16335)"),
    "mds": Method(MDS, "multidimensional scaling of a sample, then ridge regression"),
    "isometric": Method(Isometric, "least change of distances by a linear map"),
    "pca": Method(PCA, "centred principal components"),
    "pca-uncentred": Method(PCA, "principal components without centring", {"center": False}),
    "whitening": Method(Whitening, "centred principal components of equal variance"),
    "spectemp": Method(SpectralTempering, "centred principal components, tempered (arXiv 2603.19339)"),
    "spectemp-uncentred": Method(
        SpectralTempering, "principal components without centring, tempered", {"center": False}
    ),
    "rae": Method(RAE, "regularised autoencoder by Adam, as published"),
    "rae-exact": Method(RAE, "the same objective's exact optimum", {"solver": "exact"}),
    "nearfold": Method(NearFold, "learned from neighbourhoods, in the metric searched"),
    "rae-mlp": Method(MLPRAE, "autoencoder with a ReLU network", linear=False, needs=("torch", "torch")),
    "isomap": Method(Isomap, "distances along a neighbour graph", linear=False, saves=False),
    "umap": Method(UMAP, "fuzzy neighbour graph", linear=False, needs=("umap", "manifold"), saves=False),
}
"""The methods by name, in the order of tables, which is simple ones first."""

LINEAR = tuple(name for name, method in METHODS.items() if method.linear)

_GROUPS = {"all": tuple(METHODS), "linear": LINEAR}


def make(name: str, n_components: int | str, **parameters: Any) -> FoldEstimator:
    """Return the unfitted estimator of a method.

    Parameters
    ----------
    name : str
        A key of METHODS.
    n_components : int or str
        Number m of reduced dimensions, below d, or their share such as "25%".
    **parameters : dict
        Parameters of the estimator. One that it doesn't have is an error, except `random_state`, which
        methods without chance ignore.

    Returns
    -------
    FoldEstimator

    Raises
    ------
    ParameterError
        The name or a parameter is unknown.
    MissingExtraError
        The method needs a module that is not installed.
    """
    if name not in METHODS:
        raise ParameterError(f"method {name!r} is unknown; use one of {', '.join(METHODS)}")
    method = METHODS[name]
    if method.needs:
        require_extra(*method.needs, f"method {name}")
    known = set(method.estimator().get_params())
    if "random_state" not in known:
        parameters.pop("random_state", None)
    if unknown := sorted(parameters.keys() - known):
        raise ParameterError(
            f"method {name!r} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    return method.estimator(n_components, **{**method.fixed, **parameters})


def resolve_methods(names: str) -> list[str]:
    """Return the methods that a comma-separated list names; "linear" and "all" stand for groups.

    Parameters
    ----------
    names : str
        Names of methods and groups, such as "pca,nearfold".

    Returns
    -------
    list of str
        Keys of METHODS, each once.

    Raises
    ------
    ParameterError
        A name is unknown, or there is none.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [*_GROUPS, *METHODS]
    for name in wanted:
        if name not in known:
            raise ParameterError(f"method {name!r} is unknown; use some of {', '.join(known)}")
    if not wanted:
        raise ParameterError(f"no method is named; use some of {', '.join(known)}")
    return list(dict.fromkeys(member for name in wanted for member in _GROUPS.get(name, (name,))))
