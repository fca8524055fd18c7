"""Encoders, classifiers and whole masked autoencoders out as folders for Hugging Face's transformers."""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tutelage.batch import Batch
from tutelage.clock import Clock
from tutelage.data.index import Statistics
from tutelage.encoder import grid_of, patch_of
from tutelage.errors import CheckpointError
from tutelage.export import hub
from tutelage.export.proof import noise, to_compare, write_proven
from tutelage.methods.mae import MAE

_TODO = "Export it --to timm or --to onnx, and tell us."


def write_transformers(
    vit: VisionTransformer,
    folder: Path,
    statistics: Statistics,
    *,
    pictures: Float[Tensor, "b c h w"] | None = None,
    classes: tuple[str, ...] = (),
) -> tuple[str, float]:
    """Write a folder for `transformers.AutoModel.from_pretrained`; the model's name there, and the largest difference.

    A plain ViT becomes a `ViTModel` without a pooler, with its classifier on the class token a
    `ViTForImageClassification` with the names of its `classes`. One that norms the mean of the patch tokens instead of
    every token (`encoder.mean_pooled`) becomes a `BeitModel` or `BeitForImageClassification`, which computes just that
    (transformers' ViT does not). Compared as `write_timm` does it, on `pictures` or noise.

    Raises:
        CheckpointError: X-04, it computes something that these have not; X-02, the folder is there and is no export.
        MachineError: R-12, transformers is not installed; R-03, the folder cannot be written.
        NumericsError: X-01, the features differ by more than 1e-4; nothing is left behind.

    """
    hub.library()
    if reason := hub.unlike(vit):
        raise CheckpointError(
            "X-04",
            f"transformers has no ViT with {reason}.",
            "It would compute something else.",
            "Export it --to timm or --to onnx.",
        )
    if vit.num_classes and vit.global_pool == "avg" and not hub.is_mean_pooled(vit):
        raise CheckpointError(
            "X-04",
            "transformers has no ViT whose classifier reads the mean of normed patch tokens.",
            "It would compute something else.",
            "Export the encoder without it (--encoder-only), or all of it --to timm or --to onnx.",
        )
    base = "Beit" if hub.is_mean_pooled(vit) else "ViT"
    name = f"{base}ForImageClassification" if vit.num_classes else f"{base}Model"
    config = {"architectures": [name], **hub.config(vit), **hub.labels(classes)}
    prefix = f"{base.lower()}." if vit.num_classes else ""
    tensors = hub.encoder_tensors(vit, prefix) | (hub.named("classifier", vit.head) if vit.num_classes else {})
    difference = write_proven(
        folder,
        lambda place: hub.write_folder(place, config, tensors, statistics, vit),
        lambda place: _difference(vit, place, pictures),
        reader="transformers",
        todo=_TODO,
    )
    return name, difference


def write_vit_mae(mae: MAE, folder: Path, statistics: Statistics) -> float:
    """Write a whole masked autoencoder for `transformers.ViTMAEForPreTraining`; the largest difference.

    Compared are its predictions of all patches and its loss, for the same masks. Raises what `write_transformers` raises.
    """
    hub.library()
    if reason := unlike_vit_mae(mae):
        raise CheckpointError(
            "X-04",
            f"transformers has no ViTMAE with {reason}.",
            "It would compute something else.",
            "Export its encoder alone (--encoder-only).",
        )
    decoder, sizes = mae.decoder, mae.settings.decoder
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        **hub.config(mae.student),
        "model_type": "vit_mae",
        "mask_ratio": mae.settings.mask_ratio,
        "norm_pix_loss": mae.settings.norm_pix,
        "decoder_hidden_size": sizes.width,
        "decoder_num_hidden_layers": sizes.depth,
        "decoder_num_attention_heads": sizes.heads,
        "decoder_intermediate_size": 4 * sizes.width,
    }
    tensors = hub.encoder_tensors(mae.student, "vit.")
    tensors |= {"decoder.mask_token": decoder.mask_token, "decoder.decoder_pos_embed": decoder.positions[None]}
    parts = {"embed": decoder.embed, "norm": decoder.norm, "pred": decoder.predict}
    for part, layer in parts.items():
        tensors |= hub.named(f"decoder.decoder_{part}", layer)
    for i, block in enumerate(decoder.blocks):
        tensors |= hub.block_tensors(block, f"decoder.decoder_layers.{i}")
    return write_proven(
        folder,
        lambda place: hub.write_folder(place, config, tensors, statistics, mae.student),
        lambda place: _mae_difference(mae, place),
        reader="transformers",
        todo=_TODO,
    )


def unlike_vit_mae(mae: MAE) -> str | None:
    """What a masked autoencoder has that transformers' ViTMAE has not, in words; None where it can be that."""
    vit = mae.student
    found = {
        "patches that are not square": len(set(patch_of(vit))) > 1,
        "pictures that are not square": len(set(grid_of(vit))) > 1,
        "no biases of queries, keys and values": vit.blocks[0].attn.qkv.bias is None,
        f"norms with another epsilon ({vit.norm.eps:g}) than its decoder's": vit.norm.eps != mae.decoder.norm.eps,
    }
    return hub.unlike(vit) or next((words for words, there in found.items() if there), None)


@torch.no_grad()
def _difference(vit: VisionTransformer, folder: Path, pictures: Tensor | None) -> float:
    """The largest difference of tokens, and of what is made of them: logits, or the normed mean of the patch tokens."""
    ours = to_compare(vit)
    x = (noise(ours) if pictures is None else pictures).detach().cpu().float()
    tokens = ours.forward_features(x)
    pairs = []
    if vit.num_classes:
        theirs = hub.read_back("AutoModelForImageClassification", folder)
        pairs.append((ours.forward_head(tokens), theirs(x).logits))
    elif hub.is_mean_pooled(vit):
        theirs = hub.read_back("AutoModel", folder)
        pairs.append((ours.forward_head(tokens), theirs(x).pooler_output))
    else:
        theirs = hub.read_back("AutoModel", folder, add_pooling_layer=False)
    pairs.append((tokens, theirs.base_model(x).last_hidden_state))
    return float(torch.stack([(a - b).abs().max() for a, b in pairs]).max())


@torch.no_grad()
def _mae_difference(mae: MAE, folder: Path) -> float:
    """The largest difference of predictions and losses, hidden by the same keys."""
    ours, theirs = to_compare(mae), hub.read_back("AutoModelForPreTraining", folder)
    x, generator = noise(mae.student), torch.Generator().manual_seed(0)
    keys = torch.rand(len(x), math.prod(grid_of(mae.student)), generator=generator)
    nothing = torch.zeros(len(x), dtype=torch.int64)
    output = ours({"train": Batch((x,), (keys,), nothing, nothing)}, Clock(len(x), len(x), 1))
    found = theirs(x, noise=keys)
    return float(torch.maximum((output.seen["pixels"] - found.logits).abs().max(), (output.loss - found.loss).abs()))
