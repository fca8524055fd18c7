"""Builders of the smallest network that has every part: 64 patches, 16 visible, 48 hidden, 3 folds of 16."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock
from tutelage.decoder import DecoderSettings
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.heads import HeadSettings
from tutelage.method import Method, MethodSettings
from tutelage.methods.lomar import LoMaRSettings
from tutelage.methods.mae import MAESettings
from tutelage.methods.pseudomae import PseudoMAESettings
from tutelage.methods.rc_mae import RCMAESettings
from tutelage.methods.sdae import SdAESettings
from tutelage.methods.semi_mae import SemiMAESettings

IMAGE, PATCH, WIDTH, DEPTH, HEADS = 64, 8, 48, 2, 4
PATCHES, VISIBLE, HIDDEN, FOLDS, PROTOTYPES = 64, 16, 48, 3, 64
GRID = (8, 8)
DECODER = DecoderSettings(width=32, depth=2, heads=4)
HEAD = HeadSettings(prototypes=PROTOTYPES, hidden=64, bottleneck=32)
START = Clock(batch_size=2, num_pictures=6, total_steps=12)


def tiny_vit(**changes: Any) -> VisionTransformer:
    """A ViT of 2 blocks in float64, with biases and affine weights that are not the trivial ones."""
    settings = {"image_size": IMAGE, "patch_size": PATCH, "width": WIDTH, "depth": DEPTH, "heads": HEADS, **changes}
    vit = build_vit(BackboneSettings(name="vit_tiny_patch16_224", **settings), 3).double()
    shake(vit)
    return vit


def shake(module: torch.nn.Module) -> None:
    """Move every weight but fixed positions a little, so that no bias is 0, no scale is 1, and no two networks agree."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.endswith("pos_embed"):
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


def build(settings: MethodSettings, *, trained: bool = True, num_classes: int = 0, **backbone: Any) -> Method:
    """A method in float64; student and teachers differ from each other unless `trained` is False."""
    settings.check(GRID, 8)
    method = settings.build(tiny_vit(**backbone), num_classes).double()
    if trained:
        shake(method)
    return method


def mae(**changes: Any) -> MAESettings:
    return MAESettings(**{"decoder": DECODER, **changes})


def sdae(**changes: Any) -> SdAESettings:
    return SdAESettings(**{"decoder": DECODER, **changes})


def rc_mae(**changes: Any) -> RCMAESettings:
    return RCMAESettings(**{"decoder": DECODER, **changes})


def semi_mae(**changes: Any) -> SemiMAESettings[Any]:
    branch = changes.pop("branch", mae())
    return SemiMAESettings[type(branch) if branch else MAESettings](  # type: ignore[misc]
        **{"branch": branch, "warmup_epochs": 0, "unlabelled_ratio": 2, "threshold": 0.2, **changes}
    )


def lomar(**changes: Any) -> LoMaRSettings:
    return LoMaRSettings(**{"window": 5, "num_windows": 4, **changes})


def pseudomae(**changes: Any) -> PseudoMAESettings:
    return PseudoMAESettings(**{"decoder": DECODER, "head": HEAD.model_copy(update={"prototypes": 12}), **changes})


def pictures(b: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(b, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keys(b: int = 2, seed: int = 2) -> Tensor:
    return torch.rand(b, PATCHES, generator=torch.Generator().manual_seed(seed))


def batch(method: Method, b: int = 2, seed: int = 1) -> dict[str, Batch]:
    """A batch with as many views and masks as the method asks for, every view with pictures of its own."""
    return {"train": batch_of(method.settings.streams["train"], b, seed)}


def batch_of(stream: Stream, b: int = 2, seed: int = 1) -> Batch:
    """A batch of one stream, without labels."""
    return Batch(
        views=tuple(pictures(b, 10 * seed + view) for view in range(len(stream.views))),
        keys=tuple(keys(b, 10 * seed + 5 + i) for i in range(stream.num_keys)),
        labels=torch.full((b,), -1),
        indices=torch.arange(b),
    )


def patch_pixels(grid: Tensor, ids: Tensor) -> Tensor:
    """True at the pixels [b, 1, h, w] of the patches `ids` [b, k]."""
    side = IMAGE // PATCH
    mark = torch.zeros(ids.shape[0], PATCHES, dtype=torch.bool).scatter(1, ids, True).reshape(-1, 1, side, side)
    return mark.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3).expand_as(grid)


def disturbed(x: Tensor, ids: Tensor) -> Tensor:
    """The pictures with noise in the patches `ids`, and nothing else changed."""
    return torch.where(patch_pixels(x, ids), x + torch.randn_like(x), x)


def gradients(method: Method, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every trainable parameter that the loss reaches."""
    named = {name: p for name, p in method.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}
