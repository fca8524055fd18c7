"""Everything that determines a run, in one frozen model: what a recipe is, and what settings.json holds."""

import importlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from tutelage.batch import shared_out
from tutelage.config import (
    Below1,
    Count,
    NonNegative,
    NonNegativeInt,
    Positive,
    Settings,
    Share,
    merged,
    read_json,
    shortened,
)
from tutelage.data.hashtags import TagSettings
from tutelage.data.labels import is_table
from tutelage.data.splits import HOLDOUT
from tutelage.data.views import ViewsSettings
from tutelage.distributed import world_size
from tutelage.encoder import BackboneSettings, check_backbone, own_patch_size, pair, show_size
from tutelage.engine.guard import GuardSettings
from tutelage.errors import MachineError, SettingsError, nearest
from tutelage.method import MethodSettings

M = TypeVar("M", bound=MethodSettings)


class OptimSettings(Settings):
    """AdamW with a linear warm-up and half a cosine (MAE, SdAE), a straight line (segmentation) or steps (detection)."""

    base_lr: Positive = 1.5e-4
    """Learning rate per 256 pictures of the batch: lr = base_lr x batch_size / 256."""
    betas: tuple[Below1, Below1] = (0.9, 0.95)
    """AdamW's averaging of the gradient and its square."""
    weight_decay: NonNegative = 0.05
    """Decoupled weight decay of matrices; biases and norms have none."""
    decay_tokens: bool = True
    """Decay class tokens, mask tokens and learned positions too, as the published code of pretraining does."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block of the encoder learns this much slower than the next, the first layers slowest (fine-tuning)."""
    warmup_epochs: NonNegative = 40
    """Epochs in which the learning rate rises from 0."""
    max_warmup_share: Share = 0.2
    """The warm-up takes at most this share of the run: SdAE's 0.2 x epochs, so that short runs learn too."""
    schedule: Literal["cosine", "poly", "steps"] = "cosine"
    """After the warm-up half a cosine, a straight line (segmentation's poly of power 1), or falls at some epochs."""
    drops: tuple[Positive, ...] = ()
    """Of `steps`: the epochs at which the learning rate falls to a tenth."""
    min_lr: NonNegative = 0.0
    """Learning rate at the end."""
    clip: Positive | None = None
    """Largest gradient norm; none by default, as published."""

    @model_validator(mode="after")
    def _drops_of_steps(self) -> "OptimSettings":
        if bool(self.drops) != (self.schedule == "steps"):
            raise ValueError("drops and the schedule steps go together")
        return self


class RunSettings(Settings, Generic[M]):
    """A pretraining run. A recipe is a value of it; every field is a flag."""

    recipe: str = "custom"
    """Name of the recipe it began as."""
    data: str = ""
    """DATA: a folder, a list or CSV file, or a named set such as fashion-mnist."""
    labels: str | None = None
    """How many labels are used: 40, 10%, or labels.csv with the columns path and label; by default all there are."""
    tags: str | None = None
    """tags.csv with the columns path, and tags or caption (weakly supervised); by default JSON files beside the pictures."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training pictures that is used, as nearly as possible of every class: to see what fewer teach."""
    epochs: Positive
    """Passes over the pictures."""
    steps: Count | None = None
    """Steps instead of epochs."""
    batch_size: Count
    """Pictures a step, over all processes and accumulated micro-batches."""
    micro_batch: Count | None = None
    """Pictures a forward pass and process; smaller values accumulate gradients. By default the batch over the processes."""
    seed: NonNegativeInt = 0
    """Of weights, order, views, masks and drop path."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Threads that prepare pictures ahead; by default none on a CPU, up to 8 beside a GPU, 1 there for sets in memory."""
    save_steps: Count | None = None
    """Steps between checkpoints; by default one after a minute, then every 10 minutes."""
    keep_steps: Count | None = None
    """Checkpoints at multiples of it are kept for good, beside the newest two; for curves of what was learned when."""
    keep_best: bool = True
    """Save where the monitors do better on held-out pictures (kNN, the run's own classes or tags, mIoU, AP), and keep it."""
    log_steps: Count = 10
    """Steps between lines of metrics.jsonl."""
    monitors: NonNegativeInt = 10
    """How often in a run to ask whether it learns."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = HOLDOUT
    """Share of the training pictures held out to ask that, never trained on; at most 10,000. 0 trains on all of them, and on a
    validation part that a set has besides its test part (Flowers)."""
    stuck_minutes: Positive = 30.0
    """A process that is so long in reading, a step or a save is ended, and named."""
    device: Literal["cpu", "cuda"] | None = None
    """By default cuda where there is one."""
    precision: Literal["auto", "float32", "bf16", "float64"] = "auto"
    """auto: bf16 on a GPU that has it natively, else float32. Small encoders gain nothing by it on a CPU; large ones may."""
    normalisation: Literal["measured", "imagenet"] = "measured"
    """Mean and standard deviation of the channels: of the training pictures, or ImageNet's."""
    init: str | None = None
    """Weights to start from: timm:NAME, a timm folder, a run, or an MAE checkpoint file."""
    init_teacher: str | None = None
    """Start from a teacher of the run (or its student), instead of the encoder that it hands on."""
    first: str | None = None
    """A recipe whose run comes before this one, in RUN/first, on the same pictures with this backbone: this one begins with the
    encoder that it leaves."""
    first_epochs: Positive | None = None
    """Epochs of the first run; by default its recipe's."""
    first_batch_size: Count | None = None
    """Pictures a step of the first run; by default its recipe's."""
    export_teachers: bool = False
    """Write the encoders that the run does not hand on too: each teacher's, or the student's."""
    backbone: BackboneSettings
    method: M
    optim: OptimSettings
    guard: GuardSettings = GuardSettings()
    views: ViewsSettings = ViewsSettings()
    tagging: TagSettings = TagSettings()

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        return pair(self.backbone.patch_size or own_patch_size(self.backbone.name))

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        (h, w), (ph, pw) = self.backbone.size, self.patch
        return h // ph, w // pw

    @property
    def num_patches(self) -> int:
        """Patches of a picture."""
        return math.prod(self.grid)

    @property
    def chooses_best(self) -> bool:
        """Whether a checkpoint may be chosen by held-out labels: not where the run is to know a few only."""
        return self.keep_best and (self.labels is None or is_table(self.labels))

    @property
    def lr(self) -> float:
        """The peak learning rate."""
        return self.optim.base_lr * self.batch_size / 256

    def changed(self, **changes: Any) -> "RunSettings[Any]":
        """The same with other values, nested ones as dictionaries, checked. Raises SettingsError C-02 and C-04."""
        values = merged(self.model_dump(), changes)
        kind = settings_class(values["method"])
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            raise SettingsError("C-02", explain(error, kind)) from error

    def micro_batches(self, world: int) -> int:
        """Forward passes a step: how often gradients are accumulated."""
        return self.batch_size // (world * (self.micro_batch or self.batch_size // world))

    def check(self, world: int = 1) -> None:
        """Refuse, before any data is read, what cannot work together."""
        check_backbone(self.backbone)
        self.check_batch(world)
        if (self.first_epochs or self.first_batch_size) and not self.first:
            raise SettingsError(
                "C-28", "first_ options are given, but no first run.", todo="Use --first mae-quickstart."
            )
        if self.tags and self.method.annotation != "tags" and not self.first:
            raise SettingsError(
                "C-27", f"the method {self.method.name} learns nothing from --tags {self.tags}.",
                todo="Use the recipe weakly-supervised-quickstart, or leave it out.",
            )  # fmt: skip

    def check_batch(self, world: int) -> None:
        """Refuse a batch that processes, micro-batches or the method cannot share."""
        micro = self.micro_batch or self.batch_size // world
        streams = self.method.streams
        parts = sum(stream.share for stream in streams.values())
        unit = math.lcm(world * (self.micro_batch or 1), world * parts)
        if micro == 0:
            raise SettingsError(
                "C-25", f"batch_size {self.batch_size} is less than a picture for each of {world} processes."
            )
        if self.batch_size % (world * micro):
            passes = f" x micro_batch {micro}" if self.micro_batch else ""
            raise SettingsError(
                "C-25",
                f"batch_size {self.batch_size} is no multiple of {world} processes{passes}.",
                "Every process takes the same number of pictures in every pass.",
                f"Use a batch_size of {max(1, round(self.batch_size / unit)) * unit}.",
            )
        for name, count in shared_out(self.batch_size, streams, unit).items():
            if count % (self.micro_batches(world) * world):
                raise SettingsError(
                    "C-25",
                    f"the {count} {name} pictures of a batch cannot be shared by {world} processes with "
                    f"{self.micro_batches(world)} micro-batches each.",
                    todo=f"Use a micro_batch that is a multiple of {parts}."
                    if self.micro_batch
                    else f"Use a batch_size that is a multiple of {parts * world}.",
                )
        self.method.check(self.grid, world * micro)

    def too_large(self, error: Exception) -> MachineError:
        """What to say and to try when the memory is full (`error`): fewer pictures a pass, the batch as it is."""
        share = self.batch_size // world_size()
        micro = self.micro_batch or share
        fewer = next((m for m in range(micro // 2, 0, -1) if share % m == 0), None)
        todo = "Use a smaller --backbone.image-size or a smaller backbone."
        if fewer:
            todo = f"Use --micro-batch {fewer}: gradients are accumulated, so batch_size and learning rate stay."
        means = f"A pass held {micro} pictures of {show_size(self.backbone.size)} px, {self.num_patches} patches each."
        reason = str(error).strip().split("\n")[0][:200].rstrip(".") or "no more to be had"
        return MachineError("R-20", f"the memory is full: {reason}.", means, todo)


def settings_class(method: dict[str, Any]) -> type[RunSettings[Any]]:
    """RunSettings for a method's settings: the one in `tutelage.methods.<name>`, around the branch that they name."""
    own: Any = _method_settings(str(method["name"]))
    if own.__pydantic_generic_metadata__["parameters"]:  # FixMatch has no branch: then any kind will do
        own = own[_method_settings(_name_of_branch(method.get("branch")))]
    return RunSettings[own]


def _name_of_branch(branch: Any) -> str:
    if not branch:
        return "mae"
    if not isinstance(branch, dict) or "name" not in branch:
        raise SettingsError("C-04", "method.branch does not name its method.", todo='Add "name": "mae" to it.')
    return str(branch["name"])


def _method_settings(method: str) -> type[MethodSettings]:
    from tutelage import methods

    known = [path.stem for path in Path(methods.__path__[0]).glob("*.py") if path.stem != "__init__"]
    if method not in known:
        raise SettingsError("C-04", f"there is no method '{method}'.", todo=nearest(method, known))
    module = importlib.import_module(f"tutelage.methods.{method}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, MethodSettings) and value.__module__ == module.__name__
    )


def read_settings(path: Path) -> RunSettings[Any]:
    """The settings in a JSON file, checked: each value of its own type, so that neither "7" nor true is a number.

    Raises:
        SettingsError: C-05 no settings at all, C-04 of no method, C-02 with the settings that are wrong.

    """
    try:
        values = read_json(path)
        kind = settings_class(values["method"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = {KeyError: "it names no method", TypeError: "its method is no section"}.get(type(error), str(error))
        raise SettingsError(
            "C-05", f"{path} cannot be read as settings: {reason}.", todo="Use the settings.json of a run."
        ) from error
    try:
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise SettingsError("C-02", f"{path}: {explain(error, kind)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with which setting of `model`, in a sentence each, up to five."""
    items = error.errors(include_url=False)
    sentences = []
    for item in items[:5]:
        name = ".".join(shortened(str(part)) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            offer = nearest(name, flatten(_named(model)))
            offer = offer if offer.startswith("Did you mean") else "All are shown by --help-all."
            sentences.append(f"there is no setting '{name}'. {offer}")
            continue
        said = item["msg"].removeprefix("Value error, ")
        sentences.append(f"{name} is {shortened(repr(item['input']))}: {said[:1].lower()}{said[1:]}.")
    more = [f"And {len(items) - 5} more."] if len(items) > 5 else []
    return " ".join(sentences + more)


def _named(model: type[BaseModel]) -> dict[str, Any]:
    """The settings of a model by name, those of its sections nested."""
    kinds = {name: info.annotation for name, info in model.model_fields.items()}
    return {n: _named(k) if isinstance(k, type) and issubclass(k, BaseModel) else None for n, k in kinds.items()}


_FREE = {"workers", "save_steps", "keep_steps", "keep_best", "log_steps", "device", "export_teachers", "stuck_minutes"}
"""What may change when a run goes on: nothing that the numbers depend on."""


def differences(old: RunSettings[Any], new: RunSettings[Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ in a way that would make another run: name -> (old, new)."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    names = sorted((before.keys() | after.keys()) - _FREE)
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
