"""Encoders and classifiers out as folders for timm."""

import json
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
from tutelage.export.proof import noise, to_compare, write_proven
from tutelage.transfer import load_classifier, load_encoder


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
        NumericsError: X-01, the features differ by more than 1e-4; nothing is left behind.
        CheckpointError: X-02, the folder is there and is no export.
        MachineError: R-03, the folder cannot be written.

    """
    return write_proven(
        folder,
        lambda place: _write_folder(
            vit, place, statistics, architecture, {"label_names": list(classes), **(card or {})}
        ),
        lambda place: _difference(vit, place, pictures),
        reader="timm",
        todo=f"Give the architecture that the run was trained with, not '{architecture}'.",
    )


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
    classes = pretrained["num_classes"]
    task = "image-classification" if classes else "image-feature-extraction"
    what = f"of {classes} classes" if classes else "without a classifier"
    return (
        f"---\nlibrary_name: timm\npipeline_tag: {task}\nlicense: {pretrained['license']}\n"
        f"tags: [timm, {task}, tutelage]\n---\n\n"
        f"# {architecture}.{pretrained['tag']}\n\nA Vision Transformer {what}, trained with tutelage.\n\n"
        f"```python\nmodel = {load}\n```\n\n{lines}\n"
    )


def _difference(vit: VisionTransformer, folder: Path, pictures: Tensor | None) -> float:
    """The largest difference between the features of `vit` and of what is loaded from `folder`; inf where timm cannot."""
    ours = to_compare(vit)
    try:
        if is_relative(vit):
            theirs = (load_classifier if ours.num_classes else load_encoder)(str(folder)).vit
        else:
            theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except RuntimeError:  # of another shape, or unknown to timm
        return float("inf")
    x = (noise(ours) if pictures is None else pictures).detach().cpu().float()
    with torch.no_grad():
        differ = (ours.forward_features(x) - theirs.forward_features(x)).abs().max()
        # NOTE torch's maximum keeps what is not a number; Python's may not
        return float(torch.maximum(differ, (ours(x) - theirs(x)).abs().max()) if ours.num_classes else differ)
