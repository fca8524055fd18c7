"""What a setting is: a frozen model that refuses unknown names, and field types that carry their range.

Settings live beside the class they configure. This file holds what they share, and imports nothing heavy.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_JSON = 10_000_000
"""Bytes of the largest JSON file that is read; settings and headers of tensors take thousands."""


class Settings(BaseModel):
    """Frozen settings; a field's docstring is its help on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @property
    def given(self) -> set[str]:
        """The fields whose value is not their default."""
        return {*self.model_dump(exclude_defaults=True)}


def merged(*changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries in one, the later ones over the earlier."""
    whole: dict[str, Any] = {}
    for change in changes:
        for name, value in change.items():
            both = isinstance(value, dict) and isinstance(whole.get(name), dict)
            whole[name] = merged(whole[name], value) if both else value
    return whole


Ratio = Annotated[float, Field(gt=0, lt=1)]
"""A share, both ends excluded."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A share or a probability, both ends included."""
Below1 = Annotated[float, Field(ge=0, lt=1)]
"""A share that is not all."""
Count = Annotated[int, Field(ge=1, le=2**53)]
"""A number of things, at least one. Whole numbers end at 2^53, above which JSON readers no longer agree on them."""
Width = Annotated[int, Field(ge=1, le=2**16)]
"""Features of a layer, or pixels of a side."""
Depth = Annotated[int, Field(ge=1, le=1000)]
"""Layers of a network."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
NonNegativeInt = Annotated[int, Field(ge=0, le=2**53)]
Momentum = Share
"""Weight of the past in an exponential moving average: 0 copies the student, 1 never moves."""


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes.

    Raises:
        OSError: it is not there, or no file.
        ValueError: too large, no JSON, nested too deeply, a name that comes twice, NaN or Infinity, or no object.

    """
    if path.exists() and not path.is_file():  # a pipe would block, a device never end
        raise OSError("it is no file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit / 1e6:g} MB")
    return parse_json(data)


def parse_json(data: bytes) -> dict[str, Any]:
    """The object that `data` spells, read strictly. Raises ValueError as `read_json` does."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_named_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not names with values")
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"'{shortened(name)}' comes twice")
        values[name] = value
    return values


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def shortened(text: str, most: int = 80) -> str:
    """As much of a text as belongs into a sentence."""
    return text if len(text) <= most else f"{text[:most]}..."


_SECRET = re.compile(
    r"token|secret|passw|credential|(^|[-_.])(api|auth|access|private)?[-_]?key([-_=.]|$)", re.IGNORECASE
)


def redacted(words: Sequence[str]) -> list[str]:
    """A command's words as they may be recorded: the values of options that are called token, key or secret are left out.

    The words of `--token=VALUE` and `TOKEN=VALUE` count, and the word after `--token`.
    """
    kept: list[str] = []
    hide = False
    for word in words:
        name, sign, _ = word.partition("=")
        secret = bool(_SECRET.search(name))
        kept.append("***" if hide and not word.startswith("--") else f"{name}=***" if secret and sign else word)
        hide = secret and not sign and word.startswith("-")
    return kept
