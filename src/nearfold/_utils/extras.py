"""Optional dependencies, which are imported when they are needed; errors name the extra to install."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from nearfold.errors import MissingExtraError

__all__ = ["import_extra", "require_extra"]


def require_extra(module: str, extra: str, what: str) -> None:
    """Check that a module is installed, without the cost of importing it.

    Parameters
    ----------
    module : str
        The name of the module.
    extra : str
        The extra of nearfold that installs it.
    what : str
        What needs the module, as the message says it.

    Raises
    ------
    MissingExtraError
        The module is not installed; the message names the extra.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"{what} needs {module}, which is not installed; pip install 'nearfold[{extra}]'"
        )


def import_extra(module: str, extra: str, what: str) -> Any:
    """Return an optional module; parameters and errors are those of `require_extra`."""
    require_extra(module, extra, what)
    return importlib.import_module(module)
