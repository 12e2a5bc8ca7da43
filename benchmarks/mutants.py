"""Mutation testing of the core: whether the tests notice a change of the code.

Mutants are those of cosmic-ray (operators, numbers, comparisons, branches, loops, decorators) in encoder,
moments, methods and evaluation; a sample is drawn, and each is tested by its module's own tests in a copy of
the tree. Unions in annotations and numbers of the modules' own constants (chunk sizes, tuned defaults) are
left out: the first do nothing at run time, the second change speed or a tuned choice, not what is right.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_and_test

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nearfold"

# By module: what tests it. A method has its own file and the conventions of all.
TESTS = {
    "encoder.py": "tests/test_encoder.py",
    "fold.py": "tests/test_encoder.py tests/test_mlp.py tests/test_card.py",
    "moments.py": "tests/test_moments.py",
    "evaluation": "tests/evaluation tests/methods/test_auto.py",
    "methods": "tests/methods tests/test_extremes.py tests/scale/test_fit.py",
}


class Mutant(NamedTuple):
    """A change, by its module, and where it is."""

    module: str
    mutation: Any


def found(only: str) -> Iterator[Mutant]:
    """Yield all mutants."""
    for name in TESTS:
        place = SOURCE / name
        files = [place] if place.is_file() else sorted(place.glob("*.py"))
        for file in files:
            module = file.relative_to(SOURCE).as_posix()
            if only and only not in module:
                continue
            skipped = constants(file)
            for item in _all_work_items([file], {}):
                (mutation,) = item.mutations
                if "BitOr" in mutation.operator_name or mutation.start_pos[0] in skipped:
                    continue
                yield Mutant(module, mutation)


def constants(file: Path) -> set[int]:
    """Return the lines of a module's top-level assignments."""
    lines: set[int] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def work(mutants: list[Mutant]) -> list[tuple[Mutant, bool, str]]:
    """Test mutants in a copy of the tree; return each with whether it survived, and its diff."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "build", ".*_cache"))
        os.chdir(tree)
        # The copy comes before the installed package.
        os.environ |= {
            "PYTHONPATH": str(tree / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        for mutant in mutants:
            top = mutant.module.split("/")[0]
            moved = tree / "src" / "nearfold" / mutant.module
            mutation = type(mutant.mutation)(
                module_path=moved,
                operator_name=mutant.mutation.operator_name,
                operator_args=mutant.mutation.operator_args,
                occurrence=mutant.mutation.occurrence,
                start_pos=mutant.mutation.start_pos,
                end_pos=mutant.mutation.end_pos,
                definition_name=mutant.mutation.definition_name,
            )
            own = f"tests/methods/test_{moved.stem}.py"
            first = f"{own} " if (tree / own).exists() else ""
            command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {first}{TESTS[top]}"
            result = mutate_and_test([mutation], command, 300)
            results.append((mutant, not result.is_killed, result.diff or result.output or ""))
            mark = "survived" if not result.is_killed else "killed"
            print(f"{mark}: {mutant.module}:{mutation.start_pos[0]} {mutation.operator_name}", flush=True)
        os.chdir(ROOT)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=240, help="mutants to test; 0 for all")
    parser.add_argument("--only", default="", help="part of a module's path")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    everything = list(found(given.only))
    chosen = everything
    if given.sample:
        chosen = random.Random(given.seed).sample(everything, min(given.sample, len(everything)))
    print(f"{len(everything):,} mutants, {len(chosen):,} tested", flush=True)
    shares = [chosen[i :: given.processes] for i in range(given.processes)]
    with ProcessPoolExecutor(given.processes) as pool:
        results = [result for part in pool.map(work, shares) for result in part]
    tested, survived = Counter[str](), Counter[str]()
    for mutant, lives, diff in results:
        tested[mutant.module.split("/")[0]] += 1
        survived[mutant.module.split("/")[0]] += lives
        if lives:
            print(f"\n{mutant.module}:{mutant.mutation.start_pos[0]}\n{diff}")
    for name, count in tested.items():
        print(f"{name}: {count - survived[name]} of {count} killed")
    total, lived = sum(tested.values()), sum(survived.values())
    print(f"all: {total - lived} of {total} killed, {1 - lived / max(1, total):.0%}")


if __name__ == "__main__":
    main()
