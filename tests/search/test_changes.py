"""An index through random changes, against a plain dictionary; many more by `python -m tests.searching`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from ..searching import Changes

TestChanges = Changes.TestCase
TestChanges.settings = settings(
    max_examples=8,
    stateful_step_count=20,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
