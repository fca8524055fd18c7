"""Recipes: one Python file per setting, found by its name. Listing them imports nothing heavy.

A recipe is a module with a docstring (what it is, its command, its source, the expected number and whether it was
verified here) and a value `RECIPE`, a RunSettings.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

from tutelage.errors import SettingsError, nearest

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All recipes, quick-starts first."""
    found = [path.stem.replace("_", "-") for path in _FOLDER.glob("*.py") if path.stem != "__init__"]
    return sorted(found, key=lambda name: (not name.endswith("quickstart"), name))


def check(name: str) -> None:
    """Refuse a name that is no recipe, offering the nearest."""
    if name not in names():
        raise SettingsError("C-03", f"there is no recipe '{name}'.", todo=nearest(name, names()))


def docstring(name: str) -> str:
    """A recipe's docstring, read without importing it."""
    check(name)
    source = (_FOLDER / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    return docstring(name).partition("\n")[0]


def load(name: str) -> Any:
    """The settings of a recipe."""
    check(name)
    recipe = importlib.import_module(f"tutelage.recipes.{name.replace('-', '_')}").RECIPE
    return recipe.model_copy(update={"recipe": name})


def describe(name: str) -> str:
    """A recipe whole: its docstring and every setting."""
    text = docstring(name)
    return f"{name}\n\n{text}\n\nsettings\n{load(name).model_dump_json(indent=2)}"
