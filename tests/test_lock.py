"""The lock file: every version with the hashes of its files, from whatever index, and none below a floor."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brought it")

ROOT = Path(__file__).parents[1]
LOCKED = [
    line.split() for line in (ROOT / "requirements-lock.txt").read_text().replace("\\\n", " ").splitlines() if line
]
"""The words of each entry: a name with its version, a marker, hashes."""


def declared() -> list[Requirement]:
    """What the package and its extras ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines if not line.startswith(project["name"])]


def test_every_entry_is_one_version_with_hashes_and_names_no_host() -> None:
    assert len(LOCKED) > 50
    for name, *rest in LOCKED:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*", name), name
        hashes = [word for word in rest if word.startswith("--")]
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes), name
        assert not [word for word in rest if "/" in word or "@" in word], name


@pytest.mark.parametrize("asked", declared(), ids=str)
def test_what_is_asked_for_is_locked_at_its_floor_or_above(asked: Requirement) -> None:
    versions = [name.partition("==")[2] for name, *_ in LOCKED if name.partition("==")[0] == asked.name]
    assert versions and all(asked.specifier.contains(version) for version in versions), versions
