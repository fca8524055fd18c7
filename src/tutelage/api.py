"""The Python door: `pretrain`, `evaluate` and `load_encoder`, and what the command line calls."""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from tutelage import recipes
from tutelage.config import NonNegativeInt, Settings, Share
from tutelage.distributed import rank
from tutelage.encoder import own_patch_size, pair
from tutelage.engine import pretrain as engine
from tutelage.engine.agreement import beginning_together
from tutelage.engine.checkpoint import checkpoint_folders
from tutelage.engine.launch import launched
from tutelage.engine.settings import RunSettings, differences, read_settings
from tutelage.errors import CheckpointError, SettingsError, Stopped, TutelageError, no_memory, printable
from tutelage.evaluation.asking import EvaluateOptions, by_features, evaluations
from tutelage.evaluation.predict import predict
from tutelage.evaluation.predict_masks import predict_masks
from tutelage.evaluation.predict_objects import SURE, predict_objects
from tutelage.evaluation.protocol import Name
from tutelage.evaluation.result import Evaluation
from tutelage.export import Encoder, Exported, Format, export, load_encoder
from tutelage.export.sources import run_of
from tutelage.handed_on import has_method
from tutelage.report import verdict, write_report
from tutelage.report.collect import collect
from tutelage.segmenter import load_segmenter, write_segmenter_onnx
from tutelage.transfer import backbone_of

__all__ = [
    "Encoder",
    "Evaluation",
    "detect",
    "evaluate",
    "evaluate_all",
    "finetune",
    "load_encoder",
    "pretrain",
    "segment",
]


class ExportOptions(Settings):
    """Write an encoder, classifier or segmenter for others to use: `tutelage export ENCODER --out DIR`."""

    encoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run, a checkpoint, a timm folder, or timm:NAME."""
    out: Path
    """The folder to write."""
    to: Format = "timm"
    """What loads it: timm, or of the extras tutelage[transformers] and tutelage[onnx] transformers or onnxruntime."""
    teacher: str | None = None
    """Export a teacher of a run (or its student) instead of the encoder it hands on."""
    encoder_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out the classifier that a run trained, in onnx its segmenter, and in transformers MAE's decoder."""


class PredictOptions(Settings):
    """Name the classes of pictures, of their pixels or of what lies on them: `tutelage predict RUN --data FOLDER`."""

    classifier: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run that trained a classifier (finetune, segment, detect, supervised, semi-mae, ...), or its folder classifier,
    segmenter or detector."""
    data: Annotated[str, tyro.conf.arg(metavar="DATA")]
    """A folder, a list or CSV file, or a named set."""
    out: Path | None = None
    """The folder to write; by default predictions-<data name>."""
    device: Literal["cpu", "cuda"] | None = None
    """By default cuda where there is one."""
    workers: NonNegativeInt = 0
    """Threads that prepare pictures ahead; 0 prepares them as they are needed."""
    score: Share | None = None
    """Detectors only: the least score of what is counted and drawn, by default 0.5; predictions.json has all from 0.05."""


class ReportOptions(Settings):
    """Write RUN/report.html again: `tutelage report RUN`."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder."""


def pretrain(recipe: str, data: str, out: str | Path | None = None, *, quiet: bool = True, **settings: Any) -> Path:
    """Pretrain by a recipe and return the run folder; the same call goes on with a stopped run.

    `settings` are the recipe's fields, nested ones as dictionaries: `pretrain("mae-quickstart", "photos", epochs=5,
    method={"mask_ratio": 0.6})`.

    Raises:
        Stopped: S-75, a signal or a file STOP in the run folder asked the run to stop before its end.
        TutelageError: with the code and exit code of the command line.

    """
    return _whole(run(settings_for(recipe, data=str(data), **settings), out, quiet=quiet))


def _whole(finished: engine.Finished) -> Path:
    """The folder of a run that was not stopped."""
    if finished.stopped:
        raise Stopped(
            "S-75", f"{finished.out} was asked to stop, and saved at step {finished.clock.step}.",
            "It is not finished, so nothing is to be concluded from it.", "The same call goes on.",
        )  # fmt: skip
    return finished.out


def settings_for(recipe: str, **changes: Any) -> RunSettings[Any]:
    """The settings of a recipe with `changes`, nested ones as dictionaries. Raises SettingsError."""
    settings: RunSettings[Any] = recipes.load(recipe).changed(**changes)
    return settings


def evaluate(
    protocol: Name | Literal["classifier", "robustness", "segmentation", "detection"],
    encoder: str | Path,
    data: str | Path,
    **options: Any,
) -> Evaluation:
    """Accuracy of an encoder (or of the classifier of a run) on labelled pictures; `options` are those of `EvaluateOptions`.

    That of "robustness" is on corrupted pictures, and its `mean("corruption_error")` the mean corruption error in per cent.
    """
    return evaluations(EvaluateOptions(protocol=protocol, encoder=str(encoder), data=str(data), **options))[0]


def evaluate_all(names: Sequence[Name], encoder: str | Path, data: str | Path, **options: Any) -> list[Evaluation]:
    """Accuracy by several protocols with one pass over the pictures: `evaluate_all(("knn", "low-shot"), run, "photos")`."""
    return by_features(names, EvaluateOptions(protocol="all", encoder=str(encoder), data=str(data), **options))


def starting_settings(recipe: str | None, file: str | None) -> RunSettings[Any]:
    """The settings a command line changes: a recipe's, or those of a file."""
    if file is not None:
        settings = read_settings(Path(file))
        if recipe not in (None, settings.recipe):
            raise SettingsError(
                "C-06",
                f"the recipe is '{recipe}', but {file} holds settings of '{settings.recipe}'.",
                todo="Name one of the two.",
            )
        return settings
    return recipes.load(recipe or "")  # type: ignore[no-any-return]


Task = Literal["finetune", "segment", "detect"]
"""What an encoder is put to: each is a command, and the recipes whose names begin with it are its own."""


_LEARNING = {"finetune": "fine-tuning", "segment": "segmentation", "detect": "detection"}


def downstream_settings(task: Task, encoder: str, recipe: str, teacher: str | None = None) -> RunSettings[Any]:
    """The settings of a recipe of a task that begins from an encoder, with the backbone that fits it.

    Classifying takes pictures of the encoder's own size, the others of the recipe's, made a multiple of the encoder's patch.
    A file of weights does not say of which model it is: there the backbone is the recipe's.
    """
    settings: RunSettings[Any] = recipes.load(recipe)
    fitting = [name for name in recipes.names() if name.startswith(task)]
    if recipe not in fitting:
        raise SettingsError(
            "C-06", f"'{recipe}' is no recipe of {_LEARNING[task]}.", todo=f"Use --recipe {', '.join(fitting)}."
        )
    backbone = backbone_of(encoder, teacher) or settings.backbone
    changes: dict[str, Any] = {"drop_path": settings.backbone.drop_path}
    if task != "finetune":
        patch = pair(backbone.patch_size or own_patch_size(backbone.name))
        changes["image_size"] = tuple(-(-side // p) * p for side, p in zip(settings.backbone.size, patch, strict=True))
    backbone = backbone.model_copy(update=changes)
    return settings.model_copy(update={"backbone": backbone, "init": encoder, "init_teacher": teacher})


def finetune(
    encoder: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    recipe: str = "finetune-quickstart",
    quiet: bool = True,
    **settings: Any,
) -> Path:
    """Learn to classify `data`, on from an encoder, and return the run folder; the same call goes on with a stopped run.

    `settings` are the recipe's fields, as of `pretrain`. Raises what `pretrain` raises.
    """
    return _downstream("finetune", encoder, data, out, recipe, quiet, settings)


def segment(
    encoder: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    recipe: str = "segment-quickstart",
    quiet: bool = True,
    **settings: Any,
) -> Path:
    """Learn which pixel is what, on from an encoder, and return the run folder; `data` is a folder with images and masks.

    The same call goes on with a stopped run. `settings` and errors are as of `pretrain`.
    """
    return _downstream("segment", encoder, data, out, recipe, quiet, settings)


def detect(
    encoder: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    recipe: str = "detect-quickstart",
    quiet: bool = True,
    **settings: Any,
) -> Path:
    """Learn what lies where, on from an encoder, and return the run folder; `data` is a folder with images and COCO JSON.

    The same call goes on with a stopped run. `settings` and errors are as of `pretrain`.
    """
    return _downstream("detect", encoder, data, out, recipe, quiet, settings)


def _downstream(
    task: Task, encoder: str | Path, data: str | Path, out: str | Path | None, recipe: str, quiet: bool, changes: Any
) -> Path:
    settings = downstream_settings(task, str(encoder), recipe).changed(data=str(data), **changes)
    return _whole(run(settings, out, quiet=quiet))


def run(settings: RunSettings[Any], out: str | Path | None = None, *, quiet: bool = False) -> engine.Finished:
    """Run to the end or to a stop, write the report, and say what was found and what to type next."""
    if not settings.data:
        raise SettingsError(
            "C-07",
            "no --data given.",
            "There is nothing to learn from.",
            "Name a folder of pictures, or fashion-mnist.",
        )
    place = Path(settings.data)
    if place.exists():  # photos and photos/ are the same run
        settings = settings.model_copy(update={"data": str(place)})
        place = place.resolve()
    own = f"{settings.recipe}-{place.stem if place.is_file() else place.name}"
    folder = Path(out).expanduser() if out else Path("runs") / own
    if not settings.first:
        return _one(settings, folder, quiet=quiet)
    return _two(settings, folder, quiet=quiet)


def _two(settings: RunSettings[Any], folder: Path, *, quiet: bool) -> engine.Finished:
    """The first run, unless it is finished, then the one that begins with its encoder."""
    before, first = folder / "first", first_stage(settings)
    with launched(settings.device) as device:  # both runs in one process group
        tells = rank() == 0 and not quiet
        if not _is_finished(first, before):
            _refuse_to_begin_again(before, folder)
            with beginning_together(device):  # what is wrong with the second run is said before the first
                found = engine.prepared(settings, folder)[0].found
            if tells:
                _say(*found.lines(), *_notes(settings, first), f"run 1 of 2: {settings.first}")
            try:
                finished = _one(first, before, quiet=quiet, stops=(folder,), following="the run that begins with it")
            except TutelageError as error:
                raise first_stage_error(settings, error) from error
            if finished.asked and tells:
                _say("stopped between both runs; run the same command to go on")
            if finished.stopped or finished.asked:
                return replace(finished, stopped=True)
        elif rank() == 0 and not (before / "report.html").exists():  # killed before it could be written
            write_report(before)
        if tells:
            _say(f"run 2 of 2: {settings.recipe}")
        finished = _one(settings, folder, quiet=quiet, stops=(before,))
        if finished.leads and not finished.stopped and before.is_dir():
            write_report(before)  # now it can name the run that began with it
        return finished


def _one(
    settings: RunSettings[Any], folder: Path, *, quiet: bool, stops: tuple[Path, ...] = (), following: str = ""
) -> engine.Finished:
    """One run, its report, and what to type next, unless another is `following`."""
    try:
        finished = engine.pretrain(settings, folder, quiet=quiet, stops=stops)
    except Exception as error:
        if no_memory(error):
            raise settings.too_large(error) from error
        raise
    if finished.stopped or not finished.leads:
        return finished
    report = write_report(folder)
    if not quiet:
        told = following or f"tutelage {_next(settings, folder, finished)}"
        _say(f"done    {folder} · report {report}", f"verdict {_verdict_on(folder)}", f"next    {told}")
    return finished


def _say(*lines: str) -> None:
    """Print lines on standard error, names in them made harmless."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in lines:
        console.print(printable(line), markup=False)


def first_stage(settings: RunSettings[Any]) -> RunSettings[Any]:
    """The settings of the run that comes before: its recipe's, on the same pictures with the same backbone and machine."""
    recipe: RunSettings[Any] = recipes.load(settings.first or "")
    if recipe.first:
        raise SettingsError(
            "C-28", f"{settings.first} has a first run itself.", todo="Run it by itself, and use --init RUN."
        )
    if settings.tags and "tags" not in (recipe.method.annotation, settings.method.annotation):
        raise SettingsError(
            "C-27", f"neither of both runs learns anything from --tags {settings.tags}.", todo="Leave it out."
        )
    same = [
        "data", "labels", "share", "seed", "holdout", "normalisation", "init", "init_teacher", "micro_batch",
        "device", "precision", "workers", "save_steps", "log_steps", "monitors", "stuck_minutes",
    ]  # fmt: skip
    same += ["tags", "tagging"] if recipe.method.annotation == "tags" else []
    changes: dict[str, Any] = {name: getattr(settings, name) for name in same}
    changes["backbone"] = settings.backbone.model_copy(update={"drop_path": recipe.backbone.drop_path})
    changes["epochs"] = settings.first_epochs or recipe.epochs
    changes["batch_size"] = settings.first_batch_size or recipe.batch_size
    return recipe.model_copy(update=changes)


def first_stage_error(settings: RunSettings[Any], error: TutelageError) -> TutelageError:
    """An error of the first run, with the options that are its own, also where it names those of the second."""
    said = str(error).removeprefix(f"{error.code}: ")
    said = re.sub(r"--(batch-size|epochs)\b", r"--first-\1", said)
    said = re.sub(r"\bbatch_size\b", "first_batch_size", said)
    own = "Of the first run's options two are its own: --first-epochs and --first-batch-size."
    return type(error)(error.code, f"in the first run, of {settings.first}: {said}", todo=own)


def _is_finished(settings: RunSettings[Any], folder: Path) -> bool:
    """Whether the folder holds the run of these settings, done to its end, and the encoder that it hands on."""
    if not (folder / "settings.json").exists() or differences(read_settings(folder / "settings.json"), settings):
        return False
    done = any(event.get("event") == "finished" for event in collect(folder).events)
    return done and (folder / "encoder").is_dir()


def _refuse_to_begin_again(before: Path, folder: Path) -> None:
    """Raise CheckpointError K-03 where the second run has begun and nothing of the first is left: it would be trained anew."""
    if checkpoint_folders(folder / "checkpoints") and not checkpoint_folders(before / "checkpoints"):
        raise CheckpointError(
            "K-03",
            f"{before} is gone, and {folder} has begun with its encoder.",
            "It would be trained again from its first step on, for the same weights.",
            f"Put {before} back, or begin another run with --init {folder} and another --out.",
        )


def _notes(settings: RunSettings[Any], first: RunSettings[Any]) -> list[str]:
    """What the first run has otherwise than its recipe, because the second has it so."""
    own, positions = recipes.load(settings.first or "").backbone.positions, first.backbone.positions
    if own == positions:
        return []
    told = f"the positions of {settings.first} are {own}; both runs have the second's, {positions}"
    return [f"note    {told}. --backbone.positions {own} gives them to both"]


def _next(settings: RunSettings[Any], folder: Path, finished: engine.Finished) -> str:
    """What to type after a run."""
    if not finished.labelled:
        return f"export {folder} --out DIR"
    judged = next((name for file, name in _JUDGED.items() if (folder / file).exists()), "knn")
    return f"evaluate {'knn' if settings.method.annotation == 'tags' else judged} {folder} --data {settings.data}"


_JUDGED = {"classifier": "classifier", "joint": "classifier", "segmenter": "segmentation", "detector": "detection"}
"""By which protocol a run is judged that wrote this folder."""


def _verdict_on(folder: Path) -> str:
    """The report's sentence on a run, and what to do about the first thing that went wrong."""
    record = collect(folder)
    found = verdict(record.metrics, record.monitors, record.settings, record.events)
    todo = next((reason.todo for reason in found.reasons if reason.mark == "bad" and reason.todo), "")
    return f"{found.sentence} {todo}".rstrip()


def evaluate_with(options: EvaluateOptions) -> list[Evaluation]:
    """Evaluate by one protocol or by all, with the tables on standard error."""
    results = evaluations(options, _every_few_seconds())
    print("\n\n".join("\n".join(result.table()) for result in results), file=sys.stderr)
    return results


def export_with(options: ExportOptions) -> None:
    """Write a folder for another library, and say what it is and how nearly it computes the same."""
    whole = not (options.encoder_only or options.teacher)
    if whole and options.to == "onnx" and has_method("segmenter", options.encoder):
        done, left = _export_segmenter(options), ""
    else:
        done = export(
            options.encoder, options.out, options.to, teacher=options.teacher, encoder_only=options.encoder_only
        )
        left = _left_behind(options) if whole else ""
    print(
        f"{options.out}: {done.what}; outputs differ by at most {done.difference:.1e} from {done.origin}",
        file=sys.stderr,
    )
    for note in filter(None, (done.note, left)):
        print(f"note: {note}", file=sys.stderr)
    print(f"load it: {done.load}", file=sys.stderr)


def _export_segmenter(options: ExportOptions) -> Exported:
    segmenter = load_segmenter(options.encoder)
    difference = write_segmenter_onnx(segmenter, options.out)
    height, width = segmenter.size
    what = f"a segmenter of {len(segmenter.classes)} classes, encoder and decoder, of windows of {height} x {width} px"
    load = f'onnxruntime.InferenceSession("{options.out}/model.onnx")'
    note = "Larger pictures are to be cut into such windows, as tutelage predict does."
    return Exported(segmenter.origin, what, load, difference, note)


def _left_behind(options: ExportOptions) -> str:
    """What a run handed on beside the encoder, which no other library has a model for."""
    run = run_of(options.encoder)
    if has_method("segmenter", str(run)):
        return f"The encoder alone: {run} also has a decoder of masks, which --to onnx writes with it."
    if has_method("detector", str(run)):
        return (
            f"The encoder alone: {run} also has heads that find objects, for which there is no export. "
            "tutelage predict and tutelage.detector.load_detector use them."
        )
    return ""


def predict_with(options: PredictOptions) -> Path:
    """Write predictions.csv (or masks, or predictions.json) and predictions.png, and say how much is of which class.

    Raises SettingsError C-40 for a score where nothing is detected.
    """
    place = Path(options.data).expanduser()
    out = options.out or Path(f"predictions-{place.stem if place.is_file() else place.resolve().name}")
    if has_method("detector", options.classifier):
        return _predict_objects(options, out)
    if options.score is not None:
        raise SettingsError(
            "C-40", f"score belongs to detectors, and {options.classifier} has none.", todo="Leave --score out."
        )
    if has_method("segmenter", options.classifier):
        return _predict_masks(options, out)
    found = predict(
        options.classifier, options.data, out, device=options.device, workers=options.workers, say=_every_few_seconds()
    )
    counts = Counter(one.classes[0] if one.classes else "unreadable" for one in found)
    told = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(10)) + (
        ", ..." if len(counts) > 10 else ""
    )
    print(printable(f"{len(found):,} pictures: {told}"), file=sys.stderr)
    known = [one.known == one.classes[0] for one in found if one.known and one.classes]
    if known:
        print(f"of {len(known):,} with a known class {sum(known) / len(known):.1%} are named right", file=sys.stderr)
    print(printable(f"{out}/predictions.csv, predictions.png"), file=sys.stderr)
    return out


def _predict_masks(options: PredictOptions, out: Path) -> Path:
    found = predict_masks(options.classifier, options.data, out, device=options.device, say=_every_few_seconds())
    largest = sorted(found.shares.items(), key=lambda item: -item[1])[:10]
    told = ", ".join(f"{name} {share:.1%}" for name, share in largest if share)
    print(printable(f"{found.pictures:,} pictures, of their pixels: {told}"), file=sys.stderr)
    print(printable(f"{out}/masks, predictions.png"), file=sys.stderr)
    return out


def _predict_objects(options: PredictOptions, out: Path) -> Path:
    score = SURE if options.score is None else options.score
    found = predict_objects(
        options.classifier, options.data, out, score=score, device=options.device, say=_every_few_seconds()
    )
    told = ", ".join(f"{name} {count:,}" for name, count in found.counts.most_common(10))
    if not told:
        told = "nothing" if options.score is not None else "nothing; a lower --score draws and counts more"
    print(printable(f"{found.pictures:,} pictures, found with a score of {score:.0%} or more: {told}"), file=sys.stderr)
    print(printable(f"{out}/predictions.json, predictions.png"), file=sys.stderr)
    return out


def report(folder: Path) -> Path:
    """Write a run's page again."""
    if not (folder / "settings.json").exists():
        raise SettingsError(
            "C-08", f"{folder} is no run: it has no settings.json.", todo="Name the --out of a pretrain."
        )
    return write_report(folder)


def _every_few_seconds(seconds: float = 5.0) -> Callable[[str], None]:
    """Prints what it is told, at most once in `seconds`."""
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return say
