"""The methods by name: the one list that the command line and comparisons read."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from nearfold.errors import ParameterError
from nearfold.methods.base import LinearFold

__all__ = ["METHODS", "Method", "make", "resolve_methods"]


@dataclass(frozen=True)
class Method:
    """One way to learn a fold.

    Parameters
    ----------
    estimator
        "module:class" below nearfold.methods; imported when first used.
    summary
        One line for tables and help.
    fixed
        Parameters that make this variant of the class.
    """

    estimator: str
    summary: str
    fixed: dict[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "pca": Method("pca:PCA", "centred principal components"),
    "pca-uncentred": Method("pca:PCA", "principal components without centring", {"center": False}),
    "rae": Method("rae:RAE", "regularised autoencoder by Adam, as published"),
    "rae-exact": Method("rae:RAE", "the same objective's exact optimum", {"solver": "exact"}),
    "nearfold": Method("nearfold:NearFold", "learned from neighbourhoods, in the metric searched"),
}


def make(name: str, n_components: int | str, **parameters: Any) -> LinearFold:
    """Return the unfitted estimator of a method.

    Parameters
    ----------
    name
        A key of METHODS.
    n_components
        Reduced dimensions.
    parameters
        Of the estimator; those that it doesn't have are an error, except random_state, which
        methods without chance ignore.

    Raises
    ------
    ParameterError
        The name or a parameter is unknown.
    """
    if name not in METHODS:
        raise ParameterError(f"method {name!r} is unknown; use one of {', '.join(METHODS)}")
    method = METHODS[name]
    module, cls = method.estimator.split(":")
    estimator_class = getattr(importlib.import_module(f"nearfold.methods.{module}"), cls)
    known = set(estimator_class().get_params())
    if "random_state" not in known:
        parameters.pop("random_state", None)
    if unknown := sorted(parameters.keys() - known):
        raise ParameterError(
            f"method {name!r} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    estimator: LinearFold = estimator_class(n_components, **{**method.fixed, **parameters})
    return estimator


def resolve_methods(names: str) -> list[str]:
    """Return the methods that a comma-separated list names; "all" is every one.

    Raises
    ------
    ParameterError
        One is unknown.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wanted == ["all"]:
        return list(METHODS)
    for name in wanted:
        if name not in METHODS:
            raise ParameterError(f"method {name!r} is unknown; use all or some of {', '.join(METHODS)}")
    if not wanted:
        raise ParameterError(f"no method is named; use all or some of {', '.join(METHODS)}")
    return list(dict.fromkeys(wanted))
