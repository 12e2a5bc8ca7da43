"""The methods by name: the one list that the command line and comparisons read."""

from __future__ import annotations

from typing import Any

from nearfold.discovery import offering
from nearfold.errors import ParameterError
from nearfold.extras import require_extra
from nearfold.methods.base import FoldEstimator
from nearfold.methods.method import Method

__all__ = ["LINEAR", "METHODS", "make", "resolve_methods"]


def _registered() -> dict[str, Method]:
    offers = [module.OFFERS for module in offering("nearfold.methods", "OFFERS", but="registry")]
    found = {name: method for offer in offers for name, method in offer.items()}
    return dict(sorted(found.items(), key=lambda entry: (entry[1].rank, entry[0])))


METHODS: dict[str, Method] = _registered()
"""What the modules of this package offer, simple ones first."""

LINEAR = tuple(name for name, method in METHODS.items() if method.linear)

_GROUPS = {"all": tuple(METHODS), "linear": LINEAR}


def make(name: str, n_components: int | str, **parameters: Any) -> FoldEstimator:
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

    Raises
    ------
    ParameterError
        One is unknown.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [*_GROUPS, *METHODS]
    for name in wanted:
        if name not in known:
            raise ParameterError(f"method {name!r} is unknown; use some of {', '.join(known)}")
    if not wanted:
        raise ParameterError(f"no method is named; use some of {', '.join(known)}")
    return list(dict.fromkeys(member for name in wanted for member in _GROUPS.get(name, (name,))))
