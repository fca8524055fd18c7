"""The `tutelage` command. Each sub-command is a function of its words; heavy imports wait until one is chosen."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tutelage.errors import SettingsError, Stopped, TutelageError, nearest, printable, translated
from tutelage.floors import check_floors
from tutelage.version import __version__

if TYPE_CHECKING:
    from tutelage.api import Task
    from tutelage.engine.settings import RunSettings

HELP = f"""tutelage {__version__}: masked-image pretraining under teachers

usage: tutelage COMMAND ...

  pretrain RECIPE --data DATA          learn a backbone from pictures without labels; the same command goes on
  evaluate knn|linear|low-shot|all|classifier|segmentation|detection|robustness ENCODER --data DATA
                                       say how good an encoder is, beside raw pixels and an untrained one
  finetune ENCODER --data DATA         learn to classify, from labels, on from a backbone
  segment ENCODER --data FOLDER        learn which pixel is what, from masks, on from a backbone
  detect ENCODER --data FOLDER         learn what lies where, from boxes and outlines, on from a backbone
  predict RUN --data DATA              what a run's classifier says of pictures: a table (or masks, or boxes) and a sheet
  export ENCODER --out DIR             write it for timm, transformers or onnxruntime, and prove that it computes the same
  report RUN                           write RUN/report.html again
  reproduce [TABLE --data DATA]        list the papers' ablations, or run one beside the paper's numbers
  recipes [NAME]                       list the recipes, or show one whole

DATA is a folder of pictures, a list or CSV file, or digits, fashion-mnist, cifar10, cifar100, ...
ENCODER is a run, a checkpoint, a timm folder, or timm:NAME.

first try:  tutelage pretrain pseudomae-quickstart --data fashion-mnist --epochs 2
each command explains itself with --help; --debug shows where an error came from
"""

COMMON = (
    "data", "labels", "epochs", "steps", "batch_size", "seed", "workers", "save_steps", "device", "init",
)  # fmt: skip


_FIRST = ("first", "first_epochs", "first_batch_size")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors are a line on standard error, without a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _command(words)
    except TutelageError as error:
        if debug:
            raise
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        known = translated(error)
        print(known, file=sys.stderr)
        return known.exit_code
    except SystemExit as stop:  # tyro's --help
        return int(stop.code or 0)


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "pretrain": _pretrain,
        "evaluate": _evaluate,
        "finetune": partial(_downstream, "finetune"),
        "segment": partial(_downstream, "segment"),
        "detect": partial(_downstream, "detect"),
        "predict": _predict,
        "export": _export,
        "report": _report,
        "reproduce": _reproduce,
        "recipes": _recipes,
    }
    if words[0] not in commands:
        raise SettingsError("C-01", f"unknown command '{words[0]}'.", todo=nearest(words[0], commands))
    check_floors()
    return commands[words[0]](words[1:])


def _recipes(words: list[str]) -> int:
    from tutelage import recipes

    if not words:
        _list({name: recipes.summary(name) for name in recipes.names()}, "show one whole: tutelage recipes NAME")
        return 0
    print(recipes.describe(words[0]))
    return 0


def _pretrain(words: list[str]) -> int:
    from tutelage import recipes

    settings_file, words = _take(words, "--settings")
    out, words = _take(words, "--out")
    named = bool(words) and not words[0].startswith("-")
    if not named and settings_file is None:
        if "--help" in words or "-h" in words:
            print(_PRETRAIN_HELP)
            return 0
        raise SettingsError(
            "C-06", "pretrain needs a recipe, before its options.", todo="Choose one of tutelage recipes."
        )
    if named:
        recipes.check(words[0])  # before torch is imported

    from tutelage import api

    default = api.starting_settings(words[0] if named else None, settings_file)
    words = words[1:] if named else words
    return _train(default, words, out, f"pretrain {default.recipe}", {"settings": "A settings.json to begin from"})


_PRETRAIN_HELP = """usage: tutelage pretrain RECIPE --data DATA [--out RUN] [options]

learn a backbone from pictures without labels. The same command again goes on where it stopped.
recipes: tutelage recipes        options of one: tutelage pretrain RECIPE --help (--help-all for every one)"""


def _downstream(task: "Task", words: list[str]) -> int:
    from tutelage import recipes

    out, words = _take(words, "--out")
    recipe, words = _take(words, "--recipe")
    teacher, words = _take(words, "--init-teacher")
    recipes.check(recipe := recipe or f"{task}-quickstart")  # before torch is imported
    if not words or words[0] in ("-h", "--help"):
        print(_DOWNSTREAM_HELP[task])
        return 0
    if words[0].startswith("-"):
        raise SettingsError("C-06", f"{task} needs an encoder, before its options.", todo="Name a run, or timm:NAME.")

    from tutelage import api

    default = api.downstream_settings(task, words[0], recipe, teacher)
    more = {
        "recipe": f"A recipe of this task ({task}-quickstart)",
        "init-teacher": "Begin from a teacher of the run (or its student)",
    }
    return _train(default, words[1:], out, f"{task} {words[0]}", more)


_DOWNSTREAM_HELP = {
    "finetune": """usage: tutelage finetune ENCODER --data DATA [--recipe NAME] [--out RUN] [options]

learn to classify pictures with labels, on from a run, a checkpoint, a timm folder, timm:NAME or an MAE checkpoint file.
The same command again goes on where it stopped. recipes: finetune-quickstart (default), and those of `tutelage recipes`
options: tutelage finetune ENCODER --help (--help-all for every one); from scratch: tutelage pretrain finetune-quickstart""",
    "segment": """usage: tutelage segment ENCODER --data FOLDER [--recipe NAME] [--out RUN] [options]

learn which pixel is what, on from a run, a checkpoint, a timm folder, timm:NAME or an MAE checkpoint file. FOLDER has
pictures in images/ and masks of the same names in masks/ (PNG, the value of a pixel is its class, 255 counts for nothing),
both divided into train, val and test or not at all; or is ADE20K or Cityscapes. classes.csv with the columns value and name
names classes.
The same command again goes on where it stopped. recipes: segment-quickstart (default), and those of `tutelage recipes`
options: tutelage segment ENCODER --help (--help-all for every one); from scratch: tutelage pretrain segment-quickstart""",
    "detect": """usage: tutelage detect ENCODER --data FOLDER [--recipe NAME] [--out RUN] [options]

learn what lies where, on from a run, a checkpoint, a timm folder, timm:NAME or an MAE checkpoint file. FOLDER has pictures in
images/ and COCO JSON in train.json, and in val.json or test.json where they are divided (boxes, and outlines as polygons or
run lengths); or is COCO itself, or what Roboflow or CVAT export as COCO. Needs pycocotools: pip install 'tutelage[detection]'.
The same command again goes on where it stopped. recipes: detect-quickstart (default), and those of `tutelage recipes`
options: tutelage detect ENCODER --help (--help-all for every one); from scratch: tutelage pretrain detect-quickstart""",
}


def _train(default: "RunSettings[Any]", words: list[str], out: str | None, command: str, more: dict[str, str]) -> int:
    """Run with the settings that `words` change, or say which there are; `more` are options that are no settings."""
    from tutelage import api
    from tutelage.options import help_lines, parse

    if "--help" in words or "-h" in words:
        print(f"usage: tutelage {command} --data DATA [options]\n")
        own = (*(["tags"] if default.method.annotation == "tags" else []), *(_FIRST if default.first else []))
        print("\n".join(help_lines(type(default), (*COMMON, *own), default)))
        for name, text in ({"out": "The run folder (runs/<recipe>-<data name>)"} | more).items():
            print(f"  {f'--{name}':<18} {text}")
        if default.first:
            print(f"\nOf the two runs, epochs, steps and batch size are the second's; the first is {default.first}.")
        print("\nall options of this recipe: --help-all")
        return 0
    words = ["--help" if word == "--help-all" else word for word in words]
    settings = parse(type(default), words, default=default, command=f"tutelage {command}")
    return Stopped.exit_code if api.run(settings, out).stopped else 0


def _evaluate(words: list[str]) -> int:
    from tutelage import api
    from tutelage.evaluation.asking import EvaluateOptions
    from tutelage.options import parse

    options = parse(EvaluateOptions, words, command="tutelage evaluate")
    results = [result.to_json() for result in api.evaluate_with(options)]
    if options.json_output:
        print(json.dumps(results if options.protocol == "all" else results[0]))
    return 0


def _predict(words: list[str]) -> int:
    from tutelage import api
    from tutelage.options import parse

    api.predict_with(parse(api.PredictOptions, words, command="tutelage predict"))
    return 0


def _export(words: list[str]) -> int:
    from tutelage import api
    from tutelage.options import parse

    api.export_with(parse(api.ExportOptions, words, command="tutelage export"))
    return 0


def _report(words: list[str]) -> int:
    from tutelage import api
    from tutelage.options import parse

    print(printable(str(api.report(parse(api.ReportOptions, words, command="tutelage report").run))))
    return 0


def _reproduce(words: list[str]) -> int:
    from tutelage import ablations

    if not words:
        titles = {name: table.title for name, table in ablations.tables().items()}
        _list(titles, "run one: tutelage reproduce TABLE --data DATA")
        return 0
    if not words[0].startswith("-"):
        ablations.table(words[0])  # before torch is imported

    from tutelage import reproduce
    from tutelage.options import parse

    reproduce.reproduce(parse(reproduce.ReproduceOptions, words, command="tutelage reproduce"))
    return 0


def _list(told: dict[str, str], following: str) -> None:
    """Names and what is told of each, and what to type next."""
    width = max(map(len, told))
    for name, text in told.items():
        print(f"{name:<{width}}  {text}")
    print(f"\n{following}")


def _take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option that is no setting, and the other words."""
    for i, word in enumerate(words):
        if word.startswith(option + "="):
            return word.partition("=")[2], words[:i] + words[i + 1 :]
        if word == option:
            if i + 1 == len(words):
                raise SettingsError("C-02", f"{option} needs a value.")
            return words[i + 1], words[:i] + words[i + 2 :]
    return None, words
