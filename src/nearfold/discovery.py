"""The modules of a package that say what they offer, so that adding one is adding its file."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

__all__ = ["offering"]


def offering(package: str, attribute: str, *, but: str = "") -> list[ModuleType]:
    """Return the modules of a package that have an attribute, by name; `but` is not looked at."""
    paths = importlib.import_module(package).__path__
    names = sorted(found.name for found in pkgutil.iter_modules(paths) if found.name != but)
    modules = (importlib.import_module(f"{package}.{name}") for name in names)
    return [module for module in modules if hasattr(module, attribute)]
