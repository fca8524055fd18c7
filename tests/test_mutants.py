"""`make mutants` is long, and not part of this suite; that its patches still fit is."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("patch", sorted(ROOT.glob("tests/mutants/*.patch")), ids=lambda path: path.stem)
def test_every_planted_bug_still_fits_the_code(patch: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "--check", str(patch)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
