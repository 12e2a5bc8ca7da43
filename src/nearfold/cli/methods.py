"""`nearfold methods`: the ways to fold, by name."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from nearfold.cli import options as opt

if TYPE_CHECKING:
    from nearfold.methods.registry import Method

__all__ = ["methods"]


def methods(as_json: opt.AsJson = False) -> None:
    """List the methods that `fit` and `compare` know."""
    from nearfold.cli.console import print_json, print_mapping
    from nearfold.methods.registry import METHODS

    if as_json:
        rows = {
            name: {
                "summary": method.summary,
                "linear": method.linear,
                "saves": method.saves,
                "extra": method.needs[1] if method.needs else None,
                "installed": not method.needs or importlib.util.find_spec(method.needs[0]) is not None,
            }
            for name, method in METHODS.items()
        }
        print_json(rows)
        return
    print_mapping({name: _described(method) for name, method in METHODS.items()})


def _described(method: Method) -> str:
    notes = [f"extra {method.needs[1]}"] if method.needs else []
    notes += [] if method.saves else ["compare only"]
    return method.summary + (f" ({', '.join(notes)})" if notes else "")
