"""Optional dependencies: imported when a method needs one, with an error that names the extra."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from nearfold.errors import MissingExtraError

__all__ = ["import_extra", "require_extra"]


def require_extra(module: str, extra: str, what: str) -> None:
    """Refuse `what` where `module` is not installed, without the cost of importing it.

    Raises
    ------
    MissingExtraError
        It is not; the message names the extra that brings it.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"{what} needs {module}, which is not installed; pip install 'nearfold[{extra}]'"
        )


def import_extra(module: str, extra: str, what: str) -> Any:
    """Return an optional module, or raise MissingExtraError as `require_extra`."""
    require_extra(module, extra, what)
    return importlib.import_module(module)
