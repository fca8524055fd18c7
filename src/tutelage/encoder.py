"""The encoder: a timm Vision Transformer, run on visible tokens only, or on hidden tokens in folds.

Parameter names stay timm's, so every checkpoint loads and exports. `encode` is the whole difference to timm's forward:
embed all patches, add positions, gather, fold, and run `blocks` and `norm`.
"""

import copy
from functools import cache
from typing import Any, Literal, NamedTuple

import timm
import torch
from jaxtyping import Bool, Float, Int
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.config import Depth, Settings, Share, Width
from tutelage.errors import SettingsError
from tutelage.masking import gather
from tutelage.relative import RelativeAttention, buckets

ImageSize = Width | tuple[Width, Width]


class BackboneSettings(Settings):
    """Which timm Vision Transformer is pretrained, and at which size."""

    name: str = "vit_base_patch16_224"
    """A timm VisionTransformer with a class token and absolute positions."""
    image_size: ImageSize = 224
    """Side of the pictures in pixels, or height and width."""
    patch_size: ImageSize | None = None
    """Side of a patch in pixels, or height and width; by default the model's own."""
    width: Width | None = None
    """Token width; by default the model's own."""
    depth: Depth | None = None
    """Number of blocks; by default the model's own."""
    heads: Width | None = None
    """Number of attention heads; by default the model's own."""
    drop_path: Share = 0.0
    """Stochastic depth of the last block, rising linearly from 0 in the first (timm)."""
    positions: Literal["sincos", "learned", "relative"] = "sincos"
    """Fixed two-dimensional sine-cosine positions (MAE), learned ones, or none but relative ones in every block (LoMaR's
    iRPE): timm cannot load those."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return pair(self.image_size)


class Tokens(NamedTuple):
    """What an encoder or decoder puts out: a class token per fold, and the patch tokens in the order they were given."""

    cls: Float[Tensor, "b k d"]
    patches: Float[Tensor, "b n d"]


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a side length or a pair."""
    return (size, size) if isinstance(size, int) else size


def build_vit(settings: BackboneSettings, channels: int) -> VisionTransformer:
    """The student: a timm ViT without a classifier, initialised as MAE does (docs/methods/mae.md).

    Raises:
        SettingsError: the name is unknown, is no plain Vision Transformer, or its patches do not divide the picture.

    """
    check_backbone(settings)
    overrides = {"embed_dim": settings.width, "depth": settings.depth, "num_heads": settings.heads}
    arguments: dict[str, Any] = {key: value for key, value in overrides.items() if value is not None}
    if settings.patch_size is not None:
        arguments["patch_size"] = settings.patch_size
    arguments |= {"img_size": settings.size, "in_chans": channels, "drop_path_rate": settings.drop_path}
    vit = create_vit(settings.name, relative=settings.positions == "relative", **arguments)
    initialise(vit)
    if settings.positions == "sincos":
        fix_positions(vit)
    return vit


def create_vit(name: str, *, relative: bool = False, **arguments: Any) -> VisionTransformer:
    """A timm ViT without a classifier; with `relative` positions in its attention instead of absolute ones."""
    vit = timm.create_model(name, num_classes=0, **arguments, **({"pos_embed": "none"} if relative else {}))
    if relative:
        for block in vit.blocks:
            block.attn = RelativeAttention(block.attn, grid_of(vit))
    return vit


def with_head(vit: VisionTransformer, head: nn.Linear, pool: Literal["token", "avg"]) -> VisionTransformer:
    """A copy that classifies by timm's own forward: `head` on the class token, or on the mean of the normed patch tokens."""
    classifier = copy.deepcopy(vit).requires_grad_(False)
    classifier.head, classifier.global_pool = copy.deepcopy(head).requires_grad_(False), pool
    classifier.num_classes = head.out_features
    return classifier


def mean_pooled(vit: VisionTransformer) -> VisionTransformer:
    """The same ViT, changed to give the mean of its patch tokens, normed after it by a fresh norm instead of before (MAE)."""
    vit.norm, vit.fc_norm, vit.global_pool = nn.Identity(), nn.LayerNorm(vit.embed_dim, eps=1e-6), "avg"
    return vit


def is_relative(vit: VisionTransformer) -> bool:
    """Whether its positions are relative ones."""
    return isinstance(vit.blocks[0].attn, RelativeAttention)


def check_backbone(settings: BackboneSettings) -> None:
    """Refuse what cannot be built, before any data is read."""
    if not timm.is_model(settings.name):
        known = timm.list_models("vit_*_patch*")
        close = [name for name in known if settings.name.split("_patch")[0] in name][:5] or known[:5]
        raise SettingsError(
            "C-10",
            f"backbone.name '{settings.name}' is no timm model.",
            "",
            f"Known are for example {', '.join(close)}.",
        )
    own = _without_weights(settings.name)
    check_vit(own, settings.name)
    patch = pair(settings.patch_size or own_patch_size(settings.name))
    if any(side % p for side, p in zip(settings.size, patch, strict=True)):
        fitting = [max(p, p * round(side / p)) for side, p in zip(settings.size, patch, strict=True)]
        raise SettingsError(
            "C-20",
            f"backbone.patch_size {show_size(patch)} does not divide backbone.image_size {show_size(settings.size)}.",
            "Every pixel must belong to a patch.",
            f"Use an image_size of {show_size((fitting[0], fitting[1]))}, or another patch_size.",
        )
    width = settings.width
    if width is not None and width % (4 if settings.positions == "sincos" else 1):
        raise SettingsError("C-22", f"backbone.width {width} is no multiple of 4.", "Sine-cosine positions need that.")
    width, heads = width or own.embed_dim, settings.heads or own.blocks[0].attn.num_heads
    if width % heads:
        raise SettingsError("C-22", f"backbone.heads {heads} does not divide backbone.width {width}.")


@cache
def _without_weights(name: str) -> Any:
    """A timm model to look at, of whatever class; kept, for it takes a quarter of a second."""
    with torch.device("meta"):
        return timm.create_model(name)


def show_size(size: tuple[int, int]) -> str:
    """A size in words: 224, or 32x48."""
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"


def own_patch_size(name: str) -> int:
    """The patch size in a timm model's name: 16 for vit_base_patch16_224."""
    part = next((part for part in name.split("_") if part.startswith("patch") and part[5:].isdigit()), "patch16")
    return int(part[5:])


def check_vit(vit: nn.Module, name: str) -> None:
    """Refuse by name what is no Vision Transformer with a class token and absolute positions."""
    reason = None
    if type(vit) is not VisionTransformer:
        reason = f"it is a {type(vit).__name__}, no VisionTransformer"
    elif vit.cls_token is None or vit.num_prefix_tokens != 1:
        reason = "it has no class token" if vit.cls_token is None else "it has register tokens"
    elif vit.pos_embed is None:
        reason = "it has no absolute position embedding"
    elif type(vit.patch_embed) is not PatchEmbed:
        reason = f"its patches pass a {type(vit.patch_embed).__name__}, which mixes them"
    elif not isinstance(vit.norm, nn.LayerNorm):
        reason = "it has no final norm"
    if reason:
        raise SettingsError(
            "C-11",
            f"timm model '{name}' cannot be the backbone: {reason}.",
            "The methods drop patches and put a class token before each fold.",
            "Use a plain ViT such as vit_small_patch16_224 or vit_base_patch16_224.",
        )


def grid_of(vit: VisionTransformer) -> tuple[int, int]:
    """(rows, columns) of patches."""
    rows, cols = vit.patch_embed.grid_size
    return int(rows), int(cols)


def patch_of(vit: VisionTransformer) -> tuple[int, int]:
    """(height, width) of a patch in pixels."""
    height, width = vit.patch_embed.patch_size
    return int(height), int(width)


# --- the sparse and folded pass ---------------------------------------------------------------------------------------


def encode(
    vit: VisionTransformer,
    pictures: Float[Tensor, "b c h w"],
    ids: Int[Tensor, "b t"] | None = None,
    folds: int = 1,
    *,
    hidden: Bool[Tensor, "b t"] | None = None,
    mask_token: Float[Tensor, "1 1 d"] | None = None,
) -> Tokens:
    """Tokens of the patches `ids` (all when None), encoded in `folds` groups that cannot see each other.

    Each fold of t/folds patches gets the class token in front and passes the shared blocks on its own (SdAE's
    multi-fold masking; PseudoMAE 3.1): equal to `folds` separate passes, in one. Where `hidden` is true the encoder gets
    the `mask_token` and the position instead of the patch (LoMaR).
    """
    x = _patches(vit, pictures)
    n = x.shape[1]
    x = x if ids is None else gather(x, ids)
    if hidden is not None and mask_token is not None:
        x = torch.where(hidden[..., None], mask_token.to(x.dtype), x)
    cls, places = _positions(vit)
    if places is not None:
        x = x + (places if ids is None else gather(places.expand(len(ids), n, -1), ids))
    b, t, d = x.shape
    x = x.reshape(b * folds, t // folds, d)
    x = torch.cat([cls.expand(b * folds, -1, -1), x], dim=1)  # [b k, 1 + t/k, d]
    x = vit.norm(_blocks(vit, vit.norm_pre(x), None if ids is None else ids.reshape(b * folds, t // folds)))
    return Tokens(x[:, 0].reshape(b, folds, d), x[:, 1:].reshape(b, t, d))


def embedded(vit: VisionTransformer, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n1 d"]:
    """What the first block gets of whole pictures: the class token, then a token for each patch."""
    x = _patches(vit, pictures)
    cls, places = _positions(vit)
    x = x if places is None else x + places
    return vit.norm_pre(torch.cat([cls.expand(len(x), -1, -1), x], dim=1))  # type: ignore[no-any-return]


def _patches(vit: VisionTransformer, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
    x = vit.patch_embed(pictures)
    return x if x.ndim == 3 else x.flatten(1, 2)  # type: ignore[no-any-return]


def _positions(vit: VisionTransformer) -> tuple[Float[Tensor, "1 1 d"], Float[Tensor, "1 n d"] | None]:
    """The class token with its position, and those of the patches (DeiT III has none for the class token)."""
    if vit.pos_embed is None or vit.no_embed_class:
        return vit.cls_token, vit.pos_embed
    return vit.cls_token + vit.pos_embed[:, :1], vit.pos_embed[:, 1:]


def _blocks(
    vit: VisionTransformer, x: Float[Tensor, "b n1 d"], ids: Int[Tensor, "b n"] | None
) -> Float[Tensor, "b n1 d"]:
    """The blocks; those with relative positions are told which patches the tokens are."""
    if ids is None or not is_relative(vit):
        return vit.blocks(x)  # type: ignore[no-any-return]
    pairs = buckets(ids, grid_of(vit)[1])
    for block in vit.blocks:
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), buckets=pairs)))
        x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return x


# --- initialisation ---------------------------------------------------------------------------------------------------


def initialise(module: nn.Module) -> None:
    """MAE's initialisation, in place (docs/methods/mae.md).

    Linear: xavier uniform, bias 0 (the fused qkv as one matrix). Patch convolution: xavier uniform on its flattened
    weight, bias as torch has it. LayerNorm: 1 and 0. Class and mask tokens: normal with standard deviation 0.02.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.view(layer.weight.shape[0], -1))
        elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] in ("cls_token", "mask_token"):
            nn.init.normal_(parameter, std=0.02)


def fix_positions(vit: VisionTransformer) -> None:
    """Fill the position embedding with sine-cosines and freeze it."""
    table = sincos_positions(vit.embed_dim, grid_of(vit))
    with torch.no_grad():
        vit.pos_embed.copy_(table[None, 1:] if vit.no_embed_class else table[None])
    vit.pos_embed.requires_grad_(False)


def sincos_positions(width: int, grid: tuple[int, int]) -> Float[Tensor, "n1 d"]:
    """Fixed two-dimensional positions, a row of zeros for the class token first (MAE; docs/methods/mae.md).

    The first half of the channels encodes the column, the second the row; each half is [sin(p w_i), cos(p w_i)] with
    w_i = 10000^(-i / (width/4)), computed in float64.
    """
    rows, cols = grid
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, col = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(cols, dtype=torch.float64), indexing="ij"
    )
    halves = [torch.outer(place.flatten(), frequencies) for place in (col, row)]
    table = torch.cat([f(half) for half in halves for f in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).to(torch.get_default_dtype())
