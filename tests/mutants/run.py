"""Plant the bugs of tests/mutants/*.patch, one at a time, in a copy of the project: its tests must turn red.

A patch is a unified diff below a comment that says what it breaks and which tests must see it:

    # what: the teacher moves every step
    # tests: tests/equations/test_teacher.py tests/equations/test_clock.py

At least one test of every named file must fail; the same files must pass in an untouched copy. Exit 1 if a mutant
survives, a patch does not apply, or the untouched tests are red. `run.py NAME ...` runs only those mutants, `run.py --today`
two that the date chooses: in a month or so each has had its day.
"""

import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEED = ("src", "tests", "docs", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    """A patch, what it breaks, and the test files that must turn red."""

    path: Path
    what: str
    tests: tuple[str, ...]


def read(path: Path) -> Mutant:
    """The mutant in a patch file."""
    fields = dict(re.findall(r"^# (what|tests): (.+)$", path.read_text(), flags=re.MULTILINE))
    if set(fields) != {"what", "tests"}:
        sys.exit(f"{path.name}: it must begin with '# what: ...' and '# tests: ...'")
    return Mutant(path, fields["what"], tuple(fields["tests"].split()))


def copy_project(folder: Path) -> None:
    """What the tests need, and nothing they leave behind."""
    for name in SEED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / name)


def run_tests(folder: Path, tests: Iterable[str]) -> tuple[int, list[str]]:
    """Exit code of pytest and its red tests, with the copy's package in front of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "import tutelage.version as v; print(v.__file__)"]
    found = subprocess.run(
        where, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).resolve().is_relative_to(folder.resolve()):
        sys.exit(f"the tests would run against {found}, not against the copy in {folder}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    red = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, red or done.stdout.splitlines()[-1:] or [done.stderr]


def try_mutant(mutant: Mutant) -> tuple[bool, str]:
    """Whether every named test file turned red, and the line to print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder)
        command = ["git", "apply", "--whitespace=nowarn", str(mutant.path)]
        applied = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if applied.returncode:
            return False, f"STALE     {mutant.path.stem}: the patch does not apply. {applied.stderr.strip()}"
        code, red = run_tests(folder, mutant.tests)
    if code > 1 or any(line.startswith("ERROR") for line in red):
        return False, f"BROKEN    {mutant.path.stem}: the tests did not run: {red[-1]}"
    green = [test for test in mutant.tests if not any(line.startswith(f"FAILED {test}::") for line in red)]
    if green:
        return False, f"SURVIVED  {mutant.path.stem}: {' '.join(green)} stays green although {mutant.what}"
    first = red[0].removeprefix("FAILED ").split(" - ")[0].split("::")[-1]
    return True, f"killed    {mutant.path.stem} by {len(red)} tests, e.g. {first}"


def check_untouched(tests: list[str]) -> list[str]:
    """The red tests without any mutant."""
    with tempfile.TemporaryDirectory() as name:
        copy_project(Path(name))
        code, red = run_tests(Path(name), tests)
        return red if code else []


def main(names: list[str]) -> int:
    """Run the mutants of these names, or all of them."""
    paths = sorted(Path(__file__).parent.glob("*.patch"))
    if names == ["--today"]:
        day = 2 * datetime.datetime.now(datetime.timezone.utc).date().toordinal()
        names = [paths[i % len(paths)].stem for i in (day, day + 1)]
    mutants = [read(path) for path in paths if not names or path.stem in names]
    if not mutants:
        print(f"no mutant is called {' or '.join(names)}; known are {', '.join(path.stem for path in paths)}")
        return 1
    red = check_untouched(sorted({test for mutant in mutants for test in mutant.tests}))
    if red:
        print("red without any mutant:", *red, sep="\n")
        return 1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        killed = []
        for dead, line in pool.map(try_mutant, mutants):
            print(line, flush=True)
            killed.append(dead)
    print(f"{sum(killed)} of {len(killed)} mutants killed")
    return 0 if all(killed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
