"""From words on the command line to settings: tyro parses, and what it refuses is said in our form of error."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar, get_args

import tyro
from pydantic import BaseModel, ValidationError

from tutelage.config import shortened
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
        option = unknown[0].partition("=")[0]
        if (section := _left_out(default, option)) and option in option_names(model):
            raise SettingsError(
                "C-01",
                f"there is no {section} here that {shortened(option)} could change.",
                "The recipe leaves it out.",
                "Begin from a recipe that has one, or set all of it in a file for --settings.",
            )
        raise SettingsError("C-01", f"unknown option '{shortened(option)}'.", todo=nearest(option, option_names(model)))
    return value


def _left_out(default: BaseModel | None, option: str) -> str:
    """The section that an option is in, where it is None in `default`: method.teacher of --method.teacher.every."""
    value, section = default, list[str]()
    for name in option.removeprefix("--").replace("-", "_").split(".")[:-1]:
        section.append(name)
        if value is not None and (value := getattr(value, name, value)) is None:
            return ".".join(section)
    return ""


def option_names(model: type[BaseModel], prefix: str = "--") -> Iterator[str]:
    """Every option of a model, nested ones with dots: --method.mask-ratio."""
    for name, info in model.model_fields.items():
        kinds = [info.annotation, *get_args(info.annotation)]
        nested = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if any(repr(mark) == "Positional" for mark in info.metadata):
            continue
        flag = next((mark.name for mark in info.metadata if getattr(mark, "name", None)), name)
        option = prefix + flag.replace("_", "-")
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
        told = " ".join((info.description or "").split())
        yield f"  --{name.replace('_', '-'):<17}{told}{shown}"


_TITLES = ("Value error", "Parsing error", "Invalid choice", "Required options", "Missing argument")
_BOX = re.compile(r"[╭╮╰╯│─]+|^[|+]|[|+]$|-{4,}", re.MULTILINE)  # in lines, or in letters where those cannot be shown
_REST = re.compile(r" ?(Argument helptext:|For full helptext|For further information|Missing from).*")


def _sentence(box: str) -> str:
    """The message in tyro's box as a sentence: `method.mask_ratio is 1.5: it should be less than 1.`."""
    lines = [line.strip() for line in _BOX.sub("\n", box).splitlines() if line.strip()]
    text = " ".join(line for line in lines if line not in _TITLES)
    missing = re.search(r"Missing from .*?: (--\S+)", text) or re.search(r"Required options.*?(--\S+)", text)
    if missing:
        return f"{missing.group(1)} is missing."
    checked = re.search(
        r"Error parsing (\S+): \d+ validation errors? for \S+ (\S+) (.*?) \[type=\w+, input_value=(.*?), input_type",
        text,
    )
    if checked:
        section, name, rule, value = checked.groups()
        rule = rule.replace("Input should be", "it should be").replace("Value error, ", "")
        setting = name if section.startswith("RunSettings") else f"{section.lstrip('-')}.{name}"
        return f"{setting} is {shortened(value)}: {rule}."
    text = _REST.sub("", text).rstrip(".") or "not enough arguments"
    return text[:1].upper() + shortened(text[1:], 300) + "."
