"""Print constraints for pip: each dependency at the oldest version that pyproject.toml allows."""

from __future__ import annotations

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"

for needed in tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]:
    name, _, allowed = needed.partition(">=")
    print(f"{name}=={allowed.partition(',')[0]}")
