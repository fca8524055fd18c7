"""What can be asked of an encoder on labelled pictures: the options, and which protocol heeds which."""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import tyro

from tutelage.config import Count, NonNegativeInt, Settings
from tutelage.errors import SettingsError
from tutelage.evaluation.classifier import evaluate_classifier
from tutelage.evaluation.detection import evaluate_detection
from tutelage.evaluation.features import Say
from tutelage.evaluation.linear import CachedSettings
from tutelage.evaluation.low_shot import LowShotSettings
from tutelage.evaluation.protocol import Name, evaluate_all, protocols_of
from tutelage.evaluation.result import Evaluation
from tutelage.evaluation.robustness import RobustnessSettings, evaluate_robustness
from tutelage.evaluation.segmentation import evaluate_segmentation


class EvaluateOptions(Settings):
    """How good an encoder is, or what a run trained: `tutelage evaluate PROTOCOL ENCODER --data DATA`."""

    protocol: tyro.conf.Positional[
        Literal["knn", "linear", "low-shot", "all", "classifier", "segmentation", "detection", "robustness"]
    ]
    """knn: neighbours vote. linear: a classifier on frozen features. low-shot: one on few pictures. all: these in one pass.
    classifier, segmentation, detection: what a run trained itself. robustness: corrupted pictures, asked for by linear's
    classifier."""
    encoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run, a checkpoint, a timm folder, or timm:NAME."""
    data: Annotated[str, tyro.conf.arg(metavar="DATA")]
    """With labels: a folder, a list or CSV file, or a named set."""
    labels: str | None = None
    """Labels of a table (labels.csv) instead of the set's own, or as many (40, 10%) of its training labels."""
    json_output: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print the result as JSON on standard output; of all, a list."""
    linear_protocol: Annotated[Literal["cached", "mae"], tyro.conf.arg(name="protocol")] = "cached"
    """linear only: features computed once, or the published protocol with augmentation."""
    baselines: bool = True
    """Beside raw pixels and the same encoder untrained."""
    teacher: str | None = None
    """Evaluate a teacher of a run (or its student) instead of the encoder it hands on: reconstruction_teacher, ..."""
    epochs: Count | None = None
    """Epochs of the linear classifier; by default the protocol's 90."""
    train_pictures: Count | None = None
    """Use so many of the labelled training pictures, evenly spread, to be quicker; by default all."""
    device: Literal["cpu", "cuda"] | None = None
    """By default cuda where there is one."""
    workers: NonNegativeInt = 0
    """Threads that prepare pictures ahead; 0 prepares them as they are needed."""
    low_shot: LowShotSettings = LowShotSettings()
    robustness: RobustnessSettings = RobustnessSettings()
    baseline: str | None = None
    """robustness only: the encoder whose errors are 100 %; by default the same encoder untrained."""
    classifier: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """robustness only: ask the classifier that the run trained, not a linear one."""
    all_pictures: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """classifier only: test on every labelled picture of DATA, for sets that the run did not see (ImageNet-A, -R, -Sketch)."""


def evaluations(options: EvaluateOptions, say: Say | None = None) -> list[Evaluation]:
    """What one protocol finds, or all of those on frozen features. Raises SettingsError C-40, and what they raise."""
    if options.protocol == "classifier":
        return [_classifier(options, say)]
    if evaluate := _OF_RUNS.get(options.protocol):
        _refuse_others(options, _OF_WHOLE_METHODS, f"other protocols, not to {options.protocol}")
        return [evaluate(options.encoder, options.data, device=options.device, say=say)]
    if options.protocol == "robustness":
        return [_robustness(options, say)]
    return by_features(get_args(Name) if options.protocol == "all" else (options.protocol,), options, say)


_OF_RUNS = {"segmentation": evaluate_segmentation, "detection": evaluate_detection}
_OF_ALL = {"protocol", "encoder", "data", "labels", "json_output", "baselines", "device", "workers"}
_OF_CLASSIFIERS = _OF_ALL | {"all_pictures"}
"""Options that a classifier heeds; --no-baselines asks for what it does anyway."""
_OF_WHOLE_METHODS = _OF_ALL - {"labels", "workers"}
_OF_ROBUSTNESS = _OF_ALL | {"robustness", "baseline", "classifier", "teacher", "epochs", "train_pictures"}
_OF_FEATURES = _OF_ALL | {"linear_protocol", "teacher", "epochs", "train_pictures", "low_shot"}


def _refuse_others(options: EvaluateOptions, heeded: set[str], told: str) -> None:
    """Raise SettingsError C-40 for options that mean nothing to a protocol; `told` is of which protocols they are."""
    if others := sorted(options.given - heeded):
        raise SettingsError("C-40", f"{', '.join(others)} belong{'s' * (len(others) == 1)} to {told}.")


def _classifier(options: EvaluateOptions, say: Say | None) -> Evaluation:
    _refuse_others(options, _OF_CLASSIFIERS, "protocols on frozen features, not to classifier")
    return evaluate_classifier(
        options.encoder,
        options.data,
        labels=options.labels,
        all_pictures=options.all_pictures,
        device=options.device,
        workers=options.workers,
        say=say,
    )


def _robustness(options: EvaluateOptions, say: Say | None) -> Evaluation:
    _refuse_others(options, _OF_ROBUSTNESS, "other protocols, not to robustness")
    if options.classifier and options.teacher:
        raise SettingsError("C-40", "teacher belongs to encoders, not to the classifier that a run trained.")
    if options.baseline and not options.baselines:
        raise SettingsError("C-40", "--baseline names one, and --no-baselines wants none.", todo="Leave one out.")
    return evaluate_robustness(
        options.encoder,
        options.data,
        options.robustness,
        baseline=options.baseline,
        baselines=options.baselines,
        classifier=options.classifier,
        linear=CachedSettings() if options.epochs is None else CachedSettings(epochs=options.epochs),
        labels=options.labels,
        teacher=options.teacher,
        train_pictures=options.train_pictures,
        device=options.device,
        workers=options.workers,
        say=say,
    )


def by_features(names: Sequence[str], options: EvaluateOptions, say: Say | None = None) -> list[Evaluation]:
    """What the named protocols find on frozen features, which they share. Raises SettingsError C-40, C-41."""
    _refuse_others(options, _OF_FEATURES, f"robustness or classifier, not to {', '.join(names)}")
    return evaluate_all(
        protocols_of(names, linear_protocol=options.linear_protocol, epochs=options.epochs, low_shot=options.low_shot),
        options.encoder,
        options.data,
        baselines=options.baselines,
        labels=options.labels,
        teacher=options.teacher,
        train_pictures=options.train_pictures,
        device=options.device,
        workers=options.workers,
        say=say,
    )
