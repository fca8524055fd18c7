"""From words on the command line to settings: tyro parses, and what it refuses is said in our form of error."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar, get_args

import tyro
from pydantic import BaseModel, ValidationError

from tutelage.errors import SettingsError, nearest

T = TypeVar("T", bound=BaseModel)


def parse(model: type[T], words: Sequence[str], *, default: T | None = None, command: str = "tutelage") -> T:
    """`words` as a value of `model`, starting from `default`.

    Raises:
        SettingsError: an unknown option (with the nearest name), a missing one, or a value out of its range.

    """
    said = io.StringIO()
    value: T
    unknown: list[str]
    try:
        with contextlib.redirect_stderr(said):
            value, unknown = tyro.cli(  # type: ignore[call-overload]
                model,
                args=list(words),
                default=default,
                prog=command,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise SettingsError("C-02", _sentence(said.getvalue()), todo=f"See {command} --help.") from None
    except ValidationError as error:
        raise SettingsError("C-02", "; ".join(item["msg"] for item in error.errors())) from None
    if unknown:
        raise SettingsError("C-01", f"unknown option '{unknown[0]}'.", todo=nearest(unknown[0], option_names(model)))
    return value


def option_names(model: type[BaseModel], prefix: str = "--") -> Iterator[str]:
    """Every option of a model, nested ones with dots: --method.mask-ratio."""
    for name, info in model.model_fields.items():
        kinds = [info.annotation, *get_args(info.annotation)]
        nested = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        option = prefix + name.replace("_", "-")
        if nested is None:
            yield option
        else:
            yield from option_names(nested, option + ".")


def help_lines(model: type[BaseModel], names: Sequence[str], default: BaseModel | None = None) -> Iterator[str]:
    """A line of help for each of the model's fields `names`."""
    for name in names:
        info = model.model_fields[name]
        value = getattr(default, name, None) if default else None
        shown = "" if value in (None, "") else f" ({value})"
        yield f"  --{name.replace('_', '-'):<16}{info.description or ''}{shown}"


def _sentence(box: str) -> str:
    """Tyro's boxed message as a sentence: `method.mask_ratio: Input should be less than 1 (1.5)`."""
    text = re.sub(r"[╭╮╰╯│─]+", "\n", box)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [
        line
        for line in lines
        if not re.match(r"(Value error|Parsing error|For full helptext|For further|https?:)", line)
    ]
    joined = " ".join(lines)
    joined = re.sub(r"\[type=\w+, input_value=(.*?), input_type=\w+\]", r"(\1)", joined)
    joined = re.sub(r"Error parsing (\S+): \d+ validation errors? for \w+(\[\w+\])? (\S+) ", r"\1.\3: ", joined)
    return joined.split(" Argument helptext:")[0].rstrip(".") + "."
