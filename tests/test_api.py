"""The public API as it is: a change here is a change for users, and belongs into the changelog.

`python -m tests.test_api` writes the snapshot anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import nearfold
from nearfold.cli.app import app
from nearfold.evaluation.compare import Comparison, ComparisonEntry
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.inspection import Inspection
from nearfold.evaluation.recall import EvaluationResult
from nearfold.evaluation.sweep import Sweep, SweepPoint
from nearfold.folds.fold import Fold
from nearfold.planning.halving import Trial
from nearfold.planning.plan import Plan

SNAPSHOT = Path(__file__).with_name("api.json")


def signature(value: Any) -> str:
    """Return parameters with their defaults, without annotations."""
    parameters = inspect.signature(value).parameters.values()
    return ", ".join(str(each.replace(annotation=inspect.Parameter.empty)) for each in parameters)


def described(value: Any) -> Any:
    if not inspect.isclass(value):
        return signature(value)
    if issubclass(value, Exception):
        return [each.__name__ for each in value.__mro__[1:-1]]
    members: dict[str, Any] = {}
    if dataclasses.is_dataclass(value):
        # Whether values are immutable, and equal by what they hold.
        settings = value.__dataclass_params__
        members["dataclass"] = {"frozen": settings.frozen, "eq": settings.eq}
    for name, member in inspect.getmembers(value):
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            members[name] = "property"
        elif inspect.isroutine(member) and str(getattr(member, "__module__", "")).startswith("nearfold"):
            members[name] = signature(member)
    return {"parameters": signature(value), "members": members}


def api() -> dict[str, Any]:
    """Return every public name with its parameters, and every command with its options."""
    root: Any = get_command(app)
    return {
        "names": {name: described(getattr(nearfold, name)) for name in sorted(nearfold.__all__)},
        "commands": {
            name: sorted(option for parameter in command.params for option in parameter.opts)
            for name, command in sorted(root.commands.items())
        },
    }


@pytest.mark.parametrize(
    "kind",
    [Comparison, ComparisonEntry, Inspection, EvaluationResult, Plan, Sweep, SweepPoint, Trial, GroundTruth],
)
def test_results_are_values(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_what_a_fold_must_bring() -> None:
    assert Fold.__abstractmethods__ == {"n_components", "n_features", "_apply", "tensors"}


def test_the_api_is_as_it_was() -> None:
    assert api() == json.loads(SNAPSHOT.read_text(encoding="utf-8")), (
        "the public API changed; if that is meant, say so in CHANGELOG.md, and run python -m tests.test_api"
    )


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(api(), indent=1) + "\n", encoding="utf-8")
