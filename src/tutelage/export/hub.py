"""What a folder of transformers holds: names, configuration and preprocessing; and which encoders it can hold.

The tensors get the names that checkpoints on Hugging Face's hub have (`encoder.layer.0.attention.attention.query.weight`),
which newer versions of the library translate when they read them.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.layers import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from tutelage.data.index import Statistics
from tutelage.encoder import is_relative, patch_of
from tutelage.export.proof import not_installed


def library() -> Any:
    """The transformers library, imported only where it is used: it takes seconds."""
    try:
        import transformers
    except ImportError as error:
        raise not_installed("transformers", "transformers") from error
    return transformers


def read_back(kind: str, folder: Path, **options: Any) -> Any:
    """A model as transformers reads it from the folder, without its progress bars."""
    transformers = library()
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = getattr(transformers, kind).from_pretrained(str(folder), local_files_only=True, **options)
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.float().eval()


def unlike(vit: VisionTransformer) -> str | None:
    """What an encoder has that neither ViT nor BEiT of transformers has, in words; None where it can be one of them."""
    block, mean_pooled = vit.blocks[0], is_mean_pooled(vit)
    if is_relative(vit):
        return "relative positions"
    found = {
        "tokens beside the class token and the patches": vit.num_prefix_tokens > 1,
        "a class token without a position": vit.no_embed_class,
        "a norm before its blocks": not isinstance(vit.norm_pre, nn.Identity),
        "blocks of another kind": type(block) is not Block or type(block.mlp) is not Mlp,
        "layer scale": not isinstance(block.ls1, nn.Identity),
        "normed queries and keys": not isinstance(block.attn.q_norm, nn.Identity),
        "another activation than GELU": type(block.mlp.act).__name__ != "GELU",
        "no final LayerNorm": not isinstance(vit.norm, nn.LayerNorm) and not mean_pooled,
        "norms of several kinds": len({(type(norm).__name__, norm.eps) for norm in _norms(vit)}) > 1,
        "no biases of queries, keys and values": mean_pooled and block.attn.qkv.bias is None,
    }
    return next((words for words, there in found.items() if there), None)


def _norms(vit: VisionTransformer) -> list[Any]:
    return [layer for layer in vit.modules() if hasattr(layer, "eps")]


def is_mean_pooled(vit: VisionTransformer) -> bool:
    """Whether it norms the mean of the patch tokens, and no token by itself."""
    return vit.global_pool == "avg" and isinstance(vit.norm, nn.Identity) and isinstance(vit.fc_norm, nn.LayerNorm)


# --- what is written --------------------------------------------------------------------------------------------------


def config(vit: VisionTransformer) -> dict[str, Any]:
    """What transformers' configuration says of an encoder."""
    (height, width), (ph, pw), block = vit.patch_embed.img_size, patch_of(vit), vit.blocks[0]
    config = {
        "model_type": "vit",
        "image_size": int(height) if height == width else [int(height), int(width)],
        "patch_size": ph if ph == pw else [ph, pw],
        "num_channels": int(vit.patch_embed.proj.in_channels),
        "hidden_size": int(vit.embed_dim),
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": int(block.attn.num_heads),
        "intermediate_size": int(block.mlp.fc1.out_features),
        "hidden_act": "gelu",
        "layer_norm_eps": float(block.norm1.eps),
        "qkv_bias": block.attn.qkv.bias is not None,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if is_mean_pooled(vit):  # BEiT with positions as ViT's, and without what it is named for
        config |= {"model_type": "beit", "use_mean_pooling": True, "use_absolute_position_embeddings": True}
        config |= {"use_relative_position_bias": False, "layer_scale_init_value": 0.0, "drop_path_rate": 0.0}
    return config


def labels(classes: tuple[str, ...]) -> dict[str, Any]:
    """What it says of classes."""
    if not classes:
        return {}
    return {
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
    }


def encoder_tensors(vit: VisionTransformer, prefix: str) -> dict[str, Tensor]:
    """The tensors of an encoder by the hub's names, `prefix` before each."""
    tensors = {
        f"{prefix}embeddings.cls_token": vit.cls_token,
        f"{prefix}embeddings.position_embeddings": vit.pos_embed,
        **named(f"{prefix}embeddings.patch_embeddings.projection", vit.patch_embed.proj),
    }
    for i, block in enumerate(vit.blocks):
        tensors |= block_tensors(block, f"{prefix}encoder.layer.{i}")
    if not is_mean_pooled(vit):
        return tensors | named(f"{prefix}layernorm", vit.norm)
    # BEiT's keys have no bias. Theirs adds the same to all scores of a query, which the softmax takes out again.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("attention.key.bias")}
    return tensors | named(f"{prefix}pooler.layernorm", vit.fc_norm)


def block_tensors(block: Block, name: str) -> dict[str, Tensor]:
    """Those of a block, whose fused queries, keys and values are three layers there."""
    layers = {
        "layernorm_before": block.norm1,
        "attention.output.dense": block.attn.proj,
        "layernorm_after": block.norm2,
        "intermediate.dense": block.mlp.fc1,
        "output.dense": block.mlp.fc2,
    }
    tensors = {key: tensor for part, layer in layers.items() for key, tensor in named(f"{name}.{part}", layer).items()}
    for kind, fused in block.attn.qkv.state_dict().items():
        for part, tensor in zip(("query", "key", "value"), fused.chunk(3), strict=True):
            tensors[f"{name}.attention.attention.{part}.{kind}"] = tensor
    return tensors


def named(name: str, layer: nn.Module) -> dict[str, Tensor]:
    """Those of a layer."""
    return {f"{name}.{kind}": tensor for kind, tensor in layer.state_dict().items()}


def write_folder(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], statistics: Statistics, vit: VisionTransformer
) -> None:
    """Write the configuration, the preprocessing of pictures and the weights."""
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", preprocessor(vit, statistics))
    plain = {name: tensor.detach().cpu().float().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def preprocessor(vit: VisionTransformer, statistics: Statistics) -> dict[str, Any]:
    """The view that pictures are evaluated in (`data.crops.eval_view`), as a ViTImageProcessor.

    It cannot make a picture just cover a size that is not square: there it stretches pictures of other proportions.
    """
    height, width = map(int, vit.patch_embed.img_size)
    size = {"height": height, "width": width}
    margin = 256 / 224 if min(height, width) >= 96 else 1.0
    cut = {"size": {"shortest_edge": round(height * margin)}, "do_center_crop": True, "crop_size": size}
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": len(statistics.mean) == 3,
        "do_resize": True,
        "resample": 3,  # bicubic
        **(cut if height == width else {"size": size}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(statistics.mean),
        "image_std": list(statistics.std),
    }
