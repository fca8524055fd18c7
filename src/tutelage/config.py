"""What a setting is: a frozen model that refuses unknown names, and field types that carry their range.

Settings live beside the class they configure. This file holds what they share, and imports nothing heavy.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Frozen settings; a field's docstring is its help on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


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
Count = Annotated[int, Field(ge=1)]
"""A number of things, at least one."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Momentum = Share
"""Weight of the past in an exponential moving average: 0 copies the student, 1 never moves."""
