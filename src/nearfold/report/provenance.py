"""What a report says of where its figures come from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path

import numpy as np

from nearfold._utils.arrays import Float32
from nearfold.errors.credentials import redacted
from nearfold.version import __version__

__all__ = ["command_line", "fingerprint", "provenance", "versions"]

_LIBRARIES = ("numpy", "scikit-learn", "faiss-cpu", "plotly")


def fingerprint(X: Float32) -> str:
    """Return a short hash of an array's shape and float32 values: equal data, equal hash."""
    digest = hashlib.sha256(repr(X.shape).encode())
    digest.update(np.ascontiguousarray(X, np.float32).data)
    return digest.hexdigest()[:16]


def provenance(base: Float32, queries: Float32) -> dict[str, str]:
    """Return names and values: data, versions and machine."""
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    return {
        "base": f"{base.shape[0]:,} x {base.shape[1]}, fingerprint {fingerprint(base)}",
        "queries": f"{queries.shape[0]:,} x {queries.shape[1]}, fingerprint {fingerprint(queries)}",
        "versions": used,
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of nearfold, Python and the libraries that figures depend on."""
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"nearfold": __version__, "Python": platform.python_version(), **libraries}


def command_line() -> str:
    """Return the command that is running, as one would type it, without passwords."""
    program = Path(sys.argv[0]).name
    program = "nearfold" if program in ("__main__.py", "nearfold") else program
    return shlex.join([program, *map(redacted, sys.argv[1:])])
