"""Encoder weights, wherever they lie: in a run, a checkpoint, a timm folder or a file, or with timm itself.

Whatever the source, they come back as tensors under timm's names with what is known about their model. Files are read as
tensors and nothing else (`tutelage.foreign`).
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.config import read_json, shortened
from tutelage.data.index import Statistics
from tutelage.encoder import BackboneSettings, pair
from tutelage.errors import CheckpointError, nearest
from tutelage.foreign import read_hashed, read_pickled, read_safetensors

IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PATCHES = "patch_embed.proj.weight"
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Weights:
    """Tensors of an encoder, and what is known about it."""

    origin: str
    tensors: dict[str, Tensor]
    """By timm's names; a file from elsewhere may hold other networks' among them."""
    others: tuple[str, ...] = ()
    """Names of tensors that certainly belong to another network."""
    architecture: str | None = None
    """The timm model, None where the source does not say."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What `timm.create_model` needs besides, to build the same shapes."""
    statistics: Statistics | None = None
    network: str | None = None
    """Whose encoder it is where a run has several: `student`, or a teacher's name."""
    classes: tuple[str, ...] = ()
    """Names of the classes where there is a classifier."""

    @property
    def relative(self) -> bool:
        """Whether the encoder has relative positions."""
        return any(name.endswith("attn.relative_positions") for name in self.tensors)

    @property
    def channels(self) -> int | None:
        """Channels of the pictures, None where there is no patch embedding."""
        return self.tensors[_PATCHES].shape[1] if _PATCHES in self.tensors else None

    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of patches, square where the source does not say, None where they cannot be."""
        if "img_size" in self.arguments and _PATCHES in self.tensors:
            (height, width), patch = _pair(self.arguments["img_size"]), self.tensors[_PATCHES].shape[-2:]
            return height // patch[0], width // patch[1]
        count = self.tensors["pos_embed"].shape[1] if "pos_embed" in self.tensors else 0
        side = math.isqrt(count)  # with the class token n^2 + 1, without it n^2
        return (side, side) if count - side * side in (0, 1) else None


def read_weights(where: str, teacher: str | None = None) -> Weights:
    """The weights that `where` names: a run, a checkpoint, a timm folder, a weights file, or `timm:NAME`.

    `teacher` names a teacher (or `student`) to read in place of the one that the run hands on.

    Raises:
        CheckpointError: not there, damaged, without an encoder, or with numbers that are not finite.

    """
    weights = _read(where, teacher)
    bad = [name for name, tensor in weights.tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(
            "K-17",
            f"{weights.origin} holds numbers that are not finite, in {_some(bad)}.",
            todo="Use an earlier checkpoint.",
        )
    return weights


def _read(where: str, teacher: str | None) -> Weights:
    path = Path(where).expanduser()
    if where.startswith("timm:") or (path / "config.json").is_file():
        if teacher is not None:
            raise CheckpointError("K-04", f"{where} has no teacher '{teacher}': it holds one encoder.")
        return _from_timm(where[5:]) if where.startswith("timm:") else _from_timm_folder(path)
    if path.is_file():
        return _from_file(path, teacher)
    if (path / "MANIFEST.json").is_file():
        return _from_checkpoint(path.resolve(), teacher)
    if (path / "settings.json").is_file():
        return _from_run(path, teacher)
    if path.is_dir():
        raise CheckpointError(
            "K-03",
            f"{path} is no encoder.",
            "It has neither config.json (timm folder), nor MANIFEST.json (checkpoint), nor settings.json (run).",
        )
    hint = f"Did you mean 'timm:{where}'?" if timm.is_model(where.partition(".")[0]) else "Check the path."
    raise CheckpointError("K-02", f"there is no file or folder {where}.", todo=hint)


def _from_run(path: Path, teacher: str | None) -> Weights:
    """Its exported encoder, or while it is not finished its newest whole checkpoint."""
    with reading(path):
        handed = _handed_on(read_json(path / "settings.json"))
    folder = path / ("encoder" if teacher in (None, handed) else f"encoder-{teacher}")
    if (folder / "config.json").is_file():
        return replace(_from_timm_folder(folder), network=teacher or handed)
    return newest_checkpoint(path, lambda checkpoint: _from_checkpoint(checkpoint, teacher))


def newest_checkpoint(run: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of the newest checkpoint of a run, or where that is damaged (K-10) of one before."""
    error = CheckpointError(
        "K-03", f"the run {run} has no encoder and no checkpoint yet.", todo="Let it go on for a while."
    )
    tried: set[Path] = set()
    while found := set((run / "checkpoints").glob("step-[0-9]*/MANIFEST.json")) - tried:  # while it trains they change
        newest = max(found, key=lambda file: int(file.parent.name[5:]))
        tried.add(newest)
        try:
            return read(newest.parent.resolve())
        except CheckpointError as damaged:
            if damaged.code != "K-10":
                raise
            error = damaged
    raise error


def _handed_on(settings: dict[str, Any]) -> str:
    """Whose encoder a run hands on: the student's where its method says nothing else."""
    return str(settings["method"].get("hands_on", "student"))


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint's networks. Raises CheckpointError K-10 where it is not as it was written."""
    with reading(path):
        written = read_json(path / "MANIFEST.json")["files"]["model.safetensors"]
        return read_hashed(path / "model.safetensors", written["size"], written["sha256"])


def _from_checkpoint(path: Path, teacher: str | None) -> Weights:
    run, tensors = path.parent.parent, read_checkpoint(path)
    with reading(run):
        settings = read_json(run / "settings.json")
        backbone, network = BackboneSettings.model_validate(settings["backbone"]), teacher or _handed_on(settings)
        known = read_json(run / "data.json")
        statistics = _numbers(known["mean"], known["std"])
    taken, others = _encoder_of(tensors, network, str(path))
    arguments = {**backbone_arguments(backbone), "in_chans": len(statistics.mean)}
    if "fc_norm.weight" in taken:  # fine-tuned: it norms the mean of the patch tokens instead of every token
        arguments["global_pool"] = "avg"
    return Weights(str(path), taken, others, backbone.name, arguments, statistics, network)


def backbone_arguments(backbone: BackboneSettings) -> dict[str, Any]:
    """What `timm.create_model` needs besides the name, to build a run's backbone."""
    sizes = {"embed_dim": backbone.width, "depth": backbone.depth, "num_heads": backbone.heads}
    given = {**sizes, "patch_size": backbone.patch_size}
    return {"img_size": backbone.size, **{name: value for name, value in given.items() if value is not None}}


def _from_timm_folder(path: Path) -> Weights:
    if not (path / "model.safetensors").is_file():
        raise CheckpointError(
            "K-03",
            f"{path} has no model.safetensors.",
            "Other files could run code when they are read.",
            "Convert it with timm.",
        )
    with reading(path):
        config = read_json(path / "config.json")
        tensors = read_safetensors(path / "model.safetensors")
        pretrained = config.get("pretrained_cfg", config)
        size = pretrained.get("input_size", (3, 224, 224))[1:]
        arguments = _checked({"img_size": size, **config.get("model_args", {})})
        channels = tensors[_PATCHES].shape[1] if _PATCHES in tensors else 3
        return Weights(
            str(path),
            tensors,
            architecture=str(config["architecture"]),
            arguments={**arguments, "in_chans": channels},
            statistics=_statistics(pretrained, channels),
            classes=tuple(map(str, pretrained.get("label_names") or ())),
        )


def _checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a Vision Transformer from a file, which may name nothing else: `checkpoint_path` would read a file."""
    known = inspect.signature(VisionTransformer).parameters
    for name, value in arguments.items():
        if name not in known:
            raise ValueError(f"'{shortened(name)}' is no argument of a Vision Transformer")
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(n, str | bool | None) or abs(n) <= _LARGEST.get(name, 2**16) for n in numbers):
            raise ValueError(f"{name} is {shortened(repr(value))}")
    size = _pair(arguments["img_size"])
    return {**{name: value for name, value in arguments.items() if name != "num_classes"}, "img_size": size}


_LARGEST = {"depth": 1000}


def _statistics(pretrained: dict[str, Any], channels: int) -> Statistics:
    """Those of a timm configuration; their average for every channel where their number is another."""
    mean, std = _numbers(*(pretrained.get(name) or given for name, given in IMAGENET._asdict().items()))
    if len(mean) == len(std) == channels:
        return Statistics(mean, std)
    return Statistics((sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels)


def _numbers(mean: Any, std: Any) -> Statistics:
    """A file's mean and standard deviation. Raises ValueError where they cannot be those of pixels in 0..1."""
    numbers = [*mean, *std]
    if not all(type(n) in (int, float) and abs(n) < 1e6 for n in numbers) or not mean or not std or min(std) <= 0:
        raise ValueError(f"mean and std are {shortened(f'{mean} and {std}')}")
    return Statistics(tuple(float(n) for n in mean), tuple(float(n) for n in std))


def _from_timm(name: str) -> Weights:
    """Timm's own pretrained weights: the only source that may use the network."""
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise CheckpointError(
            "K-02", f"timm has no model '{base}'.", todo=nearest(base, timm.list_models("*vit*patch*"))
        )
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            "K-05",
            f"timm:{name} has no weights here ({reason}).",
            "They are neither in the cache nor did timm find them over the network.",
            "Connect once, or copy a folder with config.json and model.safetensors here and name that, or choose from "
            "timm.list_pretrained('vit_*').",
        ) from error
    check_class_token(vit, name)
    channels = int(vit.patch_embed.proj.in_channels)
    arguments = {"img_size": tuple(vit.patch_embed.img_size), "in_chans": channels}
    return Weights(f"timm:{name}", vit.state_dict(), (), base, arguments, _statistics(vit.pretrained_cfg, channels))


def check_class_token(model: nn.Module, name: str) -> None:
    """Refuse what has no class token and patch tokens to evaluate, or no patch embedding that is one convolution."""
    plain = isinstance(model, VisionTransformer) and isinstance(model.patch_embed.proj, nn.Conv2d)
    if not plain or model.cls_token is None:
        raise CheckpointError(
            "K-06",
            f"'{name}' is no plain timm VisionTransformer with a class token (it is a {type(model).__name__}).",
            todo="Use a ViT such as vit_base_patch16_224.mae.",
        )


def _from_file(path: Path, teacher: str | None) -> Weights:
    """A file of tensors: an official MAE, SdAE or RC-MAE checkpoint, or any safetensors."""
    with reading(path):
        tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    taken, others = _encoder_of(tensors, teacher, str(path))
    published = "decoder_pred.weight" in taken and taken[_PATCHES].shape[1] == 3
    return Weights(str(path), taken, others, statistics=IMAGENET if published else None)


def _encoder_of(
    tensors: dict[str, Tensor], teacher: str | None, origin: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of one encoder without their prefix, and the names of the rest.

    A prefix is what stands before a patch embedding; the shortest ("", "module.") is that of the one to hand on: the student,
    and in RC-MAE's own files the teacher.
    """
    prefixes = sorted(
        (name.removesuffix(_PATCHES) for name in tensors if name.endswith(_PATCHES)), key=lambda p: (len(p), p)
    )
    chosen = prefixes[:1] if teacher is None else [prefix for prefix in prefixes if _network_of(prefix) == teacher]
    if not chosen:
        if teacher is not None and prefixes:
            raise CheckpointError("K-04", f"{origin} has no teacher '{teacher}'.", todo=_offer(teacher, prefixes))
        raise CheckpointError(
            "K-31",
            f"{origin} has no encoder: none of its {len(tensors)} tensors is a patch embedding.",
            todo="Files that can be read are of timm's Vision Transformers, or in the layout of MAE, SdAE, RC-MAE or DINO.",
        )
    n = len(chosen[0])
    taken = {name[n:]: tensor for name, tensor in tensors.items() if name.startswith(chosen[0])}
    return taken, tuple(name for name in tensors if not name.startswith(chosen[0]))


def _network_of(prefix: str) -> str:
    """Whose encoder a prefix is: that of `branch.labelling_teacher.nets.encoder.` is the labelling teacher's."""
    teacher, inside, _ = prefix.partition(".nets.")
    return teacher.rpartition(".")[2] if inside else prefix.split(".")[0].removeprefix("model_")


def _offer(teacher: str, prefixes: list[str]) -> str:
    names = [_network_of(prefix) for prefix in prefixes[1:]]
    return nearest(teacher, names) if names else "It holds one encoder only."


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while reading `path` is told as damage to it."""
    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        missing = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            "K-10", f"{path} is damaged: {missing}.", todo="Use another checkpoint or a fresh copy."
        ) from error


def _pair(size: Any) -> tuple[int, int]:
    return pair(size if isinstance(size, int) else (int(size[0]), int(size[1])))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
