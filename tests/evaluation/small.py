"""The smallest encoders, and runs and files that hold them, written by hand as their formats say."""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer

from tutelage.data.index import Statistics
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.export import Encoder

NAME = "vit_tiny_patch16_224"
GREY = Statistics((0.3,), (0.35,))
COLOUR = Statistics((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def settings(size=32, patch=4, width=48, positions="sincos"):
    sizes = {"image_size": size, "patch_size": patch, "width": width, "depth": 2, "heads": 4}
    return BackboneSettings(name=NAME, positions=positions, **sizes)


def small_vit(size=32, patch=4, channels=1, seed=0, width=48, positions="sincos") -> VisionTransformer:
    """A ViT of 48 x 2 in which no parameter is trivially 0 or 1."""
    torch.manual_seed(seed)
    vit = build_vit(settings(size, patch, width, positions), channels)
    with torch.no_grad():
        for parameter in vit.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return vit.eval()


def encoder(vit: VisionTransformer, statistics: Statistics = GREY) -> Encoder:
    height, width = vit.patch_embed.img_size
    return Encoder(vit.eval(), statistics, (height, width), vit.patch_embed.proj.in_channels, "a test", NAME)


def write_run(run: Path, student: VisionTransformer, teacher: VisionTransformer, step: int = 1200, **method) -> Path:
    """A run with one checkpoint, and `method` in its settings; returns the checkpoint."""
    size = list(student.patch_embed.img_size)
    run.mkdir(parents=True, exist_ok=True)
    backbone = settings(tuple(size), student.patch_embed.patch_size[0]).model_dump(mode="json")
    method = {"name": "sdae", **method}
    (run / "settings.json").write_text(json.dumps({"recipe": "x", "backbone": backbone, "method": method}))
    (run / "data.json").write_text(json.dumps({"channels": 1, "mean": GREY.mean, "std": GREY.std}))
    tensors = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    tensors |= {f"reconstruction_teacher.nets.encoder.{name}": tensor for name, tensor in teacher.state_dict().items()}
    tensors |= {"decoder.blocks.0.weight": torch.ones(3), "reconstruction_teacher.num_moves": torch.tensor(7)}
    data = save({name: tensor.clone().contiguous() for name, tensor in tensors.items()})
    checkpoint = run / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(data)
    (checkpoint / "optimizer.safetensors").write_bytes(b"")
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "MANIFEST.json").write_text(
        json.dumps({"format": 1, "step": step, "files": {"model.safetensors": entry}})
    )
    return checkpoint


def official_mae(path: Path, vit: VisionTransformer, prefix: str = "") -> Path:
    """A checkpoint in the layout of the MAE authors' training script, with its pickled arguments."""
    model = {f"{prefix}{name}": tensor for name, tensor in vit.state_dict().items()}
    names = [
        "mask_token",
        "decoder_pos_embed",
        "decoder_embed.weight",
        "decoder_pred.weight",
        "decoder_blocks.0.norm1.bias",
    ]
    model |= {f"{prefix}{name}": torch.ones(1, 1, 8) for name in names}
    args = argparse.Namespace(blr=1.5e-4, model="mae_vit_base_patch16", resume="")
    torch.save({"model": model, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "args": args}, path)
    return path


def same(one: VisionTransformer, other: VisionTransformer) -> bool:
    """Whether two encoders hold the same bits under the same names."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
