"""Mutation testing of the core: whether the tests notice a change of the code.

Mutants are those of cosmic-ray (operators, numbers, comparisons, branches, loops, decorators) in encoder,
moments, methods and evaluation. Unions in annotations and numbers of the modules' own constants (chunk sizes,
tuned defaults) are left out: the first do nothing at run time, the second change speed or a tuned choice, not
what is right. `--measure` first runs the tests under coverage, and notes which lines each test runs and how
long it takes; a sample of mutants is then drawn, and each is tested, in a copy of the tree, by the tests that
run its lines, quickest first.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import coverage
from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_and_test

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nearfold"
MEASURED = ROOT / "build" / "mutants"

MODULES = ("encoder.py", "fold.py", "moments.py", "evaluation", "methods")

# What runs the core. Other groups of the tests need engines or files that say nothing of it.
TESTS = [
    "tests/methods",
    "tests/evaluation",
    "tests/codecs",
    "tests/planning",
    "tests/scan/test_fit.py",
    "tests/test_encoder.py",
    "tests/test_mlp.py",
    "tests/scan/test_moments.py",
    "tests/test_arrays.py",
    "tests/test_card.py",
    "tests/scan/test_scan.py",
    "tests/scan/test_neighbors.py",
    "tests/test_extremes.py",
    "tests/test_pinned.py",
    "tests/test_progress.py",
    "tests/test_api.py",
    "src/nearfold",
]

# Processes share the cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# Tests of a mutant are the quickest ones that take so long together.
SECONDS = 45.0


class Mutant(NamedTuple):
    """A change, by its module, and where it is."""

    module: str
    mutation: Any


def found(only: str) -> Iterator[Mutant]:
    """Yield all mutants."""
    for name in MODULES:
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


def measure() -> None:
    """Run the core's tests; keep which lines each runs, and its time."""
    MEASURED.mkdir(parents=True, exist_ok=True)
    groups = [["-n", "auto"], ["-m", "torch or manifold", "--cov-append"]]
    if importlib.util.find_spec("torch") is None:
        print("torch is not here: methods that need it are left out")
        del groups[1]
    for number, group in enumerate(groups):
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *group),
                *("--cov=nearfold", "--cov-context=test", "--cov-report="),
                *(f"--junitxml={MEASURED / f'tests-{number}.xml'}", "-o", "junit_family=xunit1", *TESTS),
            ],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, "COVERAGE_FILE": str(MEASURED / "coverage")},
            check=False,
        )


class Tests:
    """What `measure` found."""

    def __init__(self) -> None:
        files = sorted(MEASURED.glob("tests-*.xml"))
        cases = [each for file in files for each in ElementTree.parse(file).iter("testcase")]
        # A test that fails anyway says nothing.
        self._seconds = {
            f"{each.get('file')}::{each.get('name')}": float(each.get("time", 0))
            for each in cases
            if each.find("failure") is None and each.find("error") is None and each.find("skipped") is None
        }
        self._data = coverage.CoverageData(str(MEASURED / "coverage"))
        self._data.read()

    def of(self, file: Path, line: int) -> list[str]:
        """Return the tests that run a line (or its function or file, where none does), quickest first."""
        contexts = self._data.contexts_by_lineno(str(file))
        names = self._run(contexts, {line})
        if not names:
            # Run on import, as signatures are: the snapshot of the public ones may know.
            names = self._run(contexts, set(function_lines(file, line)))
            names |= {name for name in self._seconds if name.startswith("tests/test_api.py")}
        ranked = sorted(names or self._run(contexts, set(contexts)), key=lambda name: self._seconds[name])
        chosen: list[str] = []
        total = 0.0
        for name in ranked:
            total += self._seconds[name]
            if chosen and total > SECONDS:
                break
            chosen.append(name)
        return chosen

    def _run(self, contexts: dict[int, list[str]], lines: set[int]) -> set[str]:
        found = {each.partition("|")[0] for line in lines for each in contexts.get(line, ())}
        return found & self._seconds.keys()


def function_lines(file: Path, line: int) -> range:
    """Return the lines of the innermost function around a line; none where there is none."""
    best = range(0)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            own = range(first, (node.end_lineno or first) + 1)
            if line in own and (not best or len(own) < len(best)):
                best = own
    return best


def work(mutants: list[Mutant]) -> list[tuple[Mutant, bool, str]]:
    """Test mutants in a copy of the tree; return each with whether it survived, and its diff."""
    results = []
    tests = Tests()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(
            ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "build", "site", ".*_cache")
        )
        os.chdir(tree)
        # The copy comes before the installed package.
        os.environ |= {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1", **ONE_THREAD}
        for mutant in mutants:
            chosen = tests.of(SOURCE / mutant.module, mutant.mutation.start_pos[0])
            Path("chosen").write_text("\n".join(chosen), encoding="utf-8")
            mutation = type(mutant.mutation)(
                module_path=tree / "src" / "nearfold" / mutant.module,
                operator_name=mutant.mutation.operator_name,
                operator_args=mutant.mutation.operator_args,
                occurrence=mutant.mutation.occurrence,
                start_pos=mutant.mutation.start_pos,
                end_pos=mutant.mutation.end_pos,
                definition_name=mutant.mutation.definition_name,
            )
            command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider @chosen"
            result = mutate_and_test([mutation], command, 2 * SECONDS + 60)
            lives = not chosen or not result.is_killed
            results.append((mutant, lives, result.diff or result.output or ""))
            mark = "survived" if lives else "killed"
            where = f"{mutant.module}:{mutation.start_pos[0]}"
            print(f"{mark}: {where} {mutation.operator_name}, {len(chosen)} tests", flush=True)
        os.chdir(ROOT)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="run the tests under coverage first")
    parser.add_argument("--sample", type=int, default=240, help="mutants to test; 0 for all")
    parser.add_argument("--only", default="", help="part of a module's path")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.measure:
        measure()
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
