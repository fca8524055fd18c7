"""Encoders in from elsewhere: whole, to be used (`load_encoder`), or as a start, with a coverage line (`init_from`)."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.data.index import Statistics
from tutelage.encoder import BackboneSettings, create_vit, grid_of, is_relative, patch_of, show_size, with_head
from tutelage.errors import CheckpointError, listed
from tutelage.weights import Weights, check_class_token, read_weights


@dataclass(frozen=True, eq=False)
class Encoder:
    """A timm ViT with what its pictures must look like."""

    vit: VisionTransformer
    statistics: Statistics
    size: tuple[int, int]
    """(height, width) of its pictures in pixels."""
    channels: int
    origin: str
    """Where its weights were read."""
    architecture: str
    """The timm model's name."""
    classes: tuple[str, ...] = ()
    """Names of the classes where it has a classifier."""


def load_encoder(where: str, *, teacher: str | None = None, device: torch.device | str = "cpu") -> Encoder:
    """The encoder that `where` names: a run, a checkpoint, a timm folder, or `timm:NAME` (the only one to use the network).

    `teacher` names a teacher of the run (or `student`), in place of the one that it hands on. The encoder is in eval mode.

    Raises:
        CheckpointError: not there, damaged, or of another shape than it says.

    """
    return _encoder_from(read_weights(where, teacher), where, device)


def _encoder_from(weights: Weights, where: str, device: torch.device | str = "cpu") -> Encoder:
    if weights.architecture is None or weights.statistics is None:
        raise CheckpointError(
            "K-03",
            f"{where} is a file of weights, which does not say of which model and pictures.",
            todo="Pretrain from it with --init, or name a run or a timm folder.",
        )
    claimed = _claimed(weights)
    tensors = {name: tensor for name, tensor in weights.tensors.items() if name in claimed.state_dict()}
    _check_shapes(tensors, claimed, weights.origin)
    vit = _build(weights)
    missing = [name for name in vit.state_dict() if name not in tensors]
    if missing:
        raise CheckpointError(
            "K-32", f"{weights.origin} lacks {len(missing)} tensors of {weights.architecture}: {listed(missing)}."
        )
    vit.load_state_dict(tensors)
    channels = int(vit.patch_embed.proj.in_channels)
    vit = vit.to(device=device, dtype=torch.float32).eval()
    return Encoder(vit, weights.statistics, _size_of(vit), channels, weights.origin, weights.architecture)


def backbone_of(where: str, teacher: str | None = None) -> BackboneSettings | None:
    """The backbone that fits the encoder that `where` names; None for a file of weights, which does not say of which model."""
    weights = read_weights(where, teacher)
    if weights.architecture is None or weights.statistics is None:
        return None
    vit = _claimed(weights)
    return BackboneSettings(
        name=weights.architecture.partition(".")[0],
        image_size=_size_of(vit),
        patch_size=patch_of(vit),
        width=vit.embed_dim,
        depth=len(vit.blocks),
        heads=vit.blocks[0].attn.num_heads,
        positions="relative" if is_relative(vit) else "learned",
    )


def load_classifier(where: str) -> Encoder:
    """The classifier of a run, or in the folder that the run wrote: its `vit` gives logits over `classes`.

    Raises:
        CheckpointError: K-07, there is none; and what `load_encoder` raises.

    """
    path = Path(where).expanduser()
    folder = path / "classifier" if (path / "classifier" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "K-07",
            f"{where} has no classifier.",
            "A run writes one at its end where its method learns from labels.",
            "Name such a run, or its folder classifier.",
        )
    weights = read_weights(str(folder))
    encoder = _encoder_from(weights, str(folder))
    weight, bias = weights.tensors.get("head.weight"), weights.tensors.get("head.bias")
    shape = (len(weights.classes), encoder.vit.embed_dim)
    if weight is None or bias is None or tuple(weight.shape) != shape or tuple(bias.shape) != shape[:1]:
        raise CheckpointError("K-07", f"{folder} has no classifier that fits its class names.")
    head = nn.Linear(shape[1], shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    vit = with_head(encoder.vit, head, "avg" if encoder.vit.global_pool == "avg" else "token").eval()
    return replace(encoder, vit=vit, classes=weights.classes)


def _claimed(weights: Weights) -> VisionTransformer:
    """What the source claims to be: its shapes, which take no memory."""
    with torch.device("meta"):
        return _build(weights)


def _build(weights: Weights) -> VisionTransformer:
    name = str(weights.architecture)
    if not timm.is_model(name.partition(".")[0]):
        raise CheckpointError(
            "K-06", f"{weights.origin} is a '{name}', which this timm does not know.", todo="Update timm."
        )
    try:
        vit = create_vit(name, relative=weights.relative, **weights.arguments)
    except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise CheckpointError("K-06", f"timm cannot build the '{name}' of {weights.origin}: {error}.") from error
    check_class_token(vit, name)
    return vit


@dataclass(frozen=True)
class Coverage:
    """How much of an encoder came from given weights."""

    origin: str
    total: int
    """Tensors of the encoder."""
    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    """Tensors of the source that the encoder has no place for."""
    missing: tuple[str, ...]
    """Tensors of the encoder that keep their fresh values."""
    notes: tuple[str, ...]
    """What was changed to fit."""
    statistics: Statistics | None
    """Normalisation that belongs to the weights, where it is known and has as many channels."""
    network: str | None = None
    """Whose encoder it was where a run has several."""
    fresh: tuple[str, ...] = ()
    """What the method around the encoder begins with values of its own: its head, its decoder."""

    def line(self) -> str:
        """In one line: "the student of runs/a: 149 of 149 encoder tensors loaded, 102 ignored (decoder), fresh (head)"."""
        whose = f"the {self.network.replace('_', ' ')} of " if self.network else ""
        parts = [f"{whose}{self.origin}: {len(self.loaded)} of {self.total} encoder tensors loaded"]
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({listed(self.missing)})")
        if self.ignored:
            parts.append(f"{len(self.ignored)} ignored ({', '.join(sorted({_part(name) for name in self.ignored}))})")
        if self.fresh:
            parts.append(f"fresh ({', '.join(self.fresh)})")
        return ", ".join([*parts, *self.notes])


def init_from(vit: VisionTransformer, where: str, *, teacher: str | None = None) -> Coverage:
    """Begin from given weights, in place: of what `load_encoder` reads, or an official MAE, SdAE or RC-MAE file.

    Positions are interpolated to another grid (bicubic, timm), and the patch embedding adapted to other channels.

    Raises:
        CheckpointError: not there, damaged, nothing fits (K-31), or a tensor has another shape or there are more or fewer
            blocks (K-30).

    """
    weights = read_weights(where, teacher)
    fitted, notes = _fit(weights, vit)
    tensors = {name: tensor for name, tensor in fitted.items() if name in vit.state_dict()}
    if not tensors:
        raise CheckpointError("K-31", f"no tensor of {where} has a name of the encoder's.", todo="Check --init.")
    _check_shapes(tensors, vit, weights.origin)
    _check_depth(weights, vit)
    vit.load_state_dict(tensors, strict=False)
    return Coverage(
        weights.origin,
        len(vit.state_dict()),
        loaded=tuple(tensors),
        ignored=(*(name for name in weights.tensors if name not in tensors), *weights.others),
        missing=tuple(name for name in vit.state_dict() if name not in tensors),
        notes=tuple(notes),
        statistics=weights.statistics if weights.channels == vit.patch_embed.proj.in_channels else None,
        network=weights.network,
    )


def _fit(weights: Weights, vit: VisionTransformer) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with positions and channels as `vit` has them, and what was changed."""
    tensors, notes = dict(weights.tensors), []
    old, new = weights.grid(), grid_of(vit)
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions = tensors.get("pos_embed")
    if positions is not None and old and old != new and positions.shape[1] == old[0] * old[1] + prefix:
        tensors["pos_embed"] = resample_abs_pos_embed(positions, list(new), list(old), num_prefix_tokens=prefix)
        notes.append(f"positions {old[0]}x{old[1]} -> {new[0]}x{new[1]}")
    channels = int(vit.patch_embed.proj.in_channels)
    patches = tensors.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 4 and patches.shape[1] != channels:
        tensors["patch_embed.proj.weight"] = adapt_channels(patches, channels)
        notes.append(f"patch embedding {patches.shape[1]} -> {channels} channels")
    return tensors, notes


def adapt_channels(weight: Float[Tensor, "d c ph pw"], channels: int) -> Float[Tensor, "d c2 ph pw"]:
    """A patch embedding for another number of channels that answers alike to pictures whose channels are equal.

    To one channel: the sum. To more: repeated and scaled by old/new. This is timm's rule, for any number of old channels.
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-channels // old)
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (old / channels)


def _check_shapes(tensors: dict[str, Tensor], vit: VisionTransformer, origin: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in vit.state_dict().items()}
    differ = [name for name, shape in expected.items() if name in tensors and tuple(tensors[name].shape) != shape]
    if not differ:
        return
    rows = [f"  {name:<32} {_shape(tensors[name].shape):<20} {_shape(expected[name])}" for name in differ[:8]]
    more = [f"  ... and {len(differ) - 8} more"] if len(differ) > 8 else []
    table = "\n".join(["", f"  {'tensor':<32} {'in the file':<20} expected", *rows, *more])
    size = show_size(_size_of(vit))
    raise CheckpointError(
        "K-30",
        f"{origin} is of another shape than the backbone ({size} px, patch {show_size(patch_of(vit))}, "
        f"width {vit.embed_dim}, depth {len(vit.blocks)}).",
        todo=f"Choose the backbone that it was trained with.{table}",
    )


def _check_depth(weights: Weights, vit: VisionTransformer) -> None:
    found = {match[1] for name in weights.tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    if len(found) != len(vit.blocks):
        raise CheckpointError(
            "K-30",
            f"{weights.origin} has {len(found)} blocks, and the backbone {len(vit.blocks)}.",
            "A part of it would be learned from nothing, or thrown away.",
            f"Choose the backbone that it was trained with: --backbone.depth {len(found)}.",
        )


def _size_of(vit: VisionTransformer) -> tuple[int, int]:
    height, width = vit.patch_embed.img_size
    return int(height), int(width)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _part(name: str) -> str:
    """The network that an ignored tensor belongs to."""
    if ".nets." in name or "teacher" in name:
        return "teachers"
    if "relative_positions" in name:
        return "relative positions"
    if "decoder" in name or "mask_token" in name:
        return "decoder"
    if name.startswith("student."):
        return "student"
    return "head" if "head" in name else "other"
