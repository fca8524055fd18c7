"""Encoders out as folders, for timm, with a proof: each is loaded back and compared before it is given its name."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.data.index import Statistics
from tutelage.encoder import is_relative, patch_of
from tutelage.errors import CheckpointError, MachineError, NumericsError
from tutelage.transfer import Coverage, Encoder, init_from, load_classifier, load_encoder

__all__ = ["Coverage", "Encoder", "init_from", "load_classifier", "load_encoder", "model_arguments", "write_timm"]

LARGEST_DIFFERENCE = 1e-4
"""Between features before and after an export; float32 on one machine gives 0."""


def write_timm(
    vit: VisionTransformer,
    folder: Path,
    statistics: Statistics,
    *,
    architecture: str,
    pictures: Float[Tensor, "b c h w"] | None = None,
    card: dict[str, Any] | None = None,
    classes: tuple[str, ...] = (),
) -> float:
    """Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`; the largest difference of features.

    The folder is written beside its place, loaded back by timm, compared on `pictures` (normalised; noise when None) with
    the encoder in float32 on the CPU, and only then renamed, in place of an earlier export. `card` fills the README; its
    `license` and `tag` also go to timm's configuration. With relative positions, which no model of timm's has, the
    folder is for `load_encoder` alone, and is compared as that reads it: timm refuses it. A classifier
    (`encoder.with_head`) is written with its head and the names of its `classes`.

    Raises:
        NumericsError: the features differ by more than 1e-4; nothing is left behind.
        CheckpointError: the folder is there and is no export.
        MachineError: the folder cannot be written.

    """
    if folder.exists() and not (folder / "config.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            "X-02", f"{folder} is there and is no export.", "It would be lost.", "Name another folder."
        )
    temporary = folder.parent / f".{folder.name}-{os.getpid()}"
    try:
        _write_folder(vit, temporary, statistics, architecture, {"label_names": list(classes), **(card or {})})
        difference = _difference(vit, temporary, pictures)
        if not difference <= LARGEST_DIFFERENCE:
            raise NumericsError(
                "X-01",
                f"timm's features of the exported encoder differ by {difference:.2g}, more than {LARGEST_DIFFERENCE:g}.",
                f"'{architecture}' does not compute what was trained, so nothing was exported.",
                "Give the architecture that the run was trained with.",
            )
        _replace(temporary, folder)
        return difference
    except OSError as error:
        raise MachineError("R-03", f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def model_arguments(vit: VisionTransformer) -> dict[str, Any]:
    """The arguments with which `timm.create_model` builds an encoder of these shapes."""
    return {
        "img_size": [int(side) for side in vit.patch_embed.img_size],
        "patch_size": list(patch_of(vit)),
        "in_chans": int(vit.patch_embed.proj.in_channels),
        "embed_dim": int(vit.embed_dim),
        "depth": len(vit.blocks),
        "num_heads": int(vit.blocks[0].attn.num_heads),
        "global_pool": str(vit.global_pool),
        # timm's models that take the mean of the tokens norm after it, unless they are told not to
        **({"fc_norm": False} if vit.global_pool == "avg" and isinstance(vit.norm, nn.LayerNorm) else {}),
    }


def _write_folder(
    vit: VisionTransformer, folder: Path, statistics: Statistics, architecture: str, card: dict[str, Any]
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = model_arguments(vit)
    size = arguments["img_size"]
    pretrained = {
        "tag": card.get("tag", "tutelage"),
        "license": card.get("license", "unknown"),
        "input_size": [arguments["in_chans"], *size],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 224 / 256 if min(size) >= 96 else 1.0,  # as data.crops.eval_view crops
        "crop_mode": "center",
        "mean": list(statistics.mean),
        "std": list(statistics.std),
        "num_classes": int(vit.num_classes),
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    if names := card.pop("label_names", []):
        pretrained["label_names"] = names
    config = {
        "architecture": architecture,
        "num_classes": int(vit.num_classes),
        "num_features": arguments["embed_dim"],
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # NOTE never a mask token or a decoder: timm would take the file for a DINOv2, or refuse it
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in vit.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    load = (
        'tutelage.load_encoder("FOLDER").vit'
        if is_relative(vit)
        else 'timm.create_model("local-dir:FOLDER", pretrained=True)'
    )
    (folder / "README.md").write_text(_readme(architecture, pretrained, card, load), encoding="utf-8")


def _readme(architecture: str, pretrained: dict[str, Any], card: dict[str, Any], load: str) -> str:
    facts = {"architecture": architecture, "mean": pretrained["mean"], "std": pretrained["std"], **card}
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return (
        f"---\nlibrary_name: timm\npipeline_tag: image-feature-extraction\nlicense: {pretrained['license']}\n"
        "tags: [timm, image-feature-extraction, tutelage]\n---\n\n"
        f"# {architecture}.{pretrained['tag']}\n\nA Vision Transformer without a classifier, pretrained with tutelage.\n\n"
        f"```python\nmodel = {load}\n```\n\n{lines}\n"
    )


def _difference(vit: VisionTransformer, folder: Path, pictures: Tensor | None) -> float:
    """The largest difference between the features of `vit` and of what is loaded from `folder`; inf where timm cannot."""
    ours = copy.deepcopy(vit).cpu().float().eval()
    if pictures is None:
        shape = (4, ours.patch_embed.proj.in_channels, *ours.patch_embed.img_size)
        pictures = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        if is_relative(vit):
            theirs = (load_classifier if ours.num_classes else load_encoder)(str(folder)).vit
        else:
            theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except RuntimeError:  # of another shape, or unknown to timm
        return float("inf")
    x = pictures.detach().cpu().float()
    with torch.no_grad():
        features = (ours.forward_features(x) - theirs.forward_features(x)).abs().max()
        return float(max(features, (ours(x) - theirs(x)).abs().max()) if ours.num_classes else features)


def _replace(new: Path, folder: Path) -> None:
    old = folder.parent / f".{folder.name}-{os.getpid()}-old"
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
