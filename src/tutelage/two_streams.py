"""A convolutional network beside a Vision Transformer, each told at some depths what the other has seen.

Conformer (Peng et al., ICCV 2021, arXiv:2105.03889); Semiformer (Weng et al., ECCV 2022, arXiv:2111.11067).
"""

from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import timm
import torch
from jaxtyping import Float
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.dense import norm_of
from tutelage.encoder import embedded, grid_of
from tutelage.errors import SettingsError

Exchanges = Literal["blocks", "stages", "none"]
"""Where the streams meet: at every block of the transformer after the first (as Semiformer's code), after the second, third and
last stage of the convolutional network, or nowhere."""
Map = Float[Tensor, "b c h w"]


class Meeting(NamedTuple):
    """Where the streams meet, both counted from 1."""

    conv: int
    """After this residual block ..."""
    vit: int
    """... and around this block of the transformer."""


class Both(NamedTuple):
    """What the two streams make of pictures."""

    conv: Float[Tensor, "b c"]
    """The mean of the last map."""
    token: Float[Tensor, "b d"]
    """The class token, normed."""


class TwoStreams(nn.Module):
    """A timm ResNet, and what carries features between it and a ViT that is held elsewhere."""

    def __init__(self, name: str, vit: VisionTransformer, exchanges: Exchanges) -> None:
        super().__init__()
        check_conv(name)
        net: Any = timm.create_model(name, num_classes=0, in_chans=vit.patch_embed.proj.in_channels)
        stages = [list(getattr(net, f"layer{k}")) for k in range(1, 5)]
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool)
        self.blocks = nn.ModuleList(block for stage in stages for block in stage)
        if norm_of("batch") is nn.SyncBatchNorm:
            self.stem, self.blocks = map(nn.SyncBatchNorm.convert_sync_batchnorm, (self.stem, self.blocks))
        self.meetings = meetings(exchanges, [len(stage) for stage in stages], len(vit.blocks))
        widths = [info["num_chs"] for info, stage in zip(net.feature_info[-4:], stages, strict=True) for _ in stage]
        self.width: int = widths[-1]
        met = [widths[meeting.conv - 1] for meeting in self.meetings]
        self.to_tokens = nn.ModuleList(ToTokens(width, vit.embed_dim) for width in met)
        self.to_maps = nn.ModuleList(ToMap(vit.embed_dim, width) for width in met)

    def forward(self, vit: VisionTransformer, pictures: Float[Tensor, "b c h w"]) -> Both:
        """Both streams through all their blocks, side by side."""
        grid, x, tokens = grid_of(vit), self.stem(pictures), embedded(vit, pictures)
        begun = Meeting(0, 0)
        for meeting, to_tokens, to_map in zip(self.meetings, self.to_tokens, self.to_maps, strict=True):
            x = _through(self.blocks[begun.conv : meeting.conv], x)
            tokens = _through(vit.blocks[begun.vit : meeting.vit - 1], tokens)
            patches = tokens[:, 1:] + to_tokens(x, grid)
            tokens = vit.blocks[meeting.vit - 1](torch.cat([tokens[:, :1], patches], dim=1))
            x = x + to_map(tokens[:, 1:], grid, (x.shape[-2], x.shape[-1]))
            begun = meeting
        x = _through(self.blocks[begun.conv :], x)
        tokens = _through(vit.blocks[begun.vit :], tokens)
        return Both(x.mean((2, 3)), vit.norm(tokens)[:, 0])


class ToTokens(nn.Module):
    """From a map to something to add to each patch token."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Conv2d(channels, width, 1), nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Map, grid: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """Projected, brought to the grid of patches, normed."""
        return F.gelu(self.norm(resampled(self.project(x), grid).flatten(2).transpose(1, 2)))


class ToMap(nn.Module):
    """From patch tokens to something to add to each place of a map."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Conv2d(width, channels, 1), norm_of("batch")(channels, eps=1e-6)

    def forward(self, patches: Float[Tensor, "b n d"], grid: tuple[int, int], size: tuple[int, int]) -> Map:
        """Projected, normed, brought to the map's size."""
        x = patches.transpose(1, 2).unflatten(2, grid)
        return resampled(F.relu(self.norm(self.project(x))), size)


def resampled(x: Map, size: tuple[int, int]) -> Map:
    """A map at another size: the mean of what lies under each place of a smaller one, the nearest place of a larger one."""
    if size[0] > x.shape[-2] or size[1] > x.shape[-1]:
        return F.interpolate(x, size=size, mode="nearest-exact")
    return F.adaptive_avg_pool2d(x, size)


def meetings(exchanges: Exchanges, stages: list[int], depth: int) -> list[Meeting]:
    """Where the streams meet, of a network with so many residual blocks in each stage and a ViT of `depth` blocks."""
    ends = [sum(stages[: k + 1]) for k in range(len(stages))]
    if exchanges == "blocks":
        return [Meeting(-(-block * ends[-1] // depth), block) for block in range(2, depth + 1)]
    if exchanges == "stages":
        blocks = [max(1, round(depth * k / 3)) for k in (1, 2, 3)]
        found = [Meeting(end, block) for end, block in zip(ends[1:], blocks, strict=True)]
        return [found[0], *(b for a, b in pairwise(found) if b.vit > a.vit)]
    return []


def check_conv(name: str) -> None:
    """Refuse what is no ResNet of timm's. Raises SettingsError C-10, C-11."""
    if not timm.is_model(name):
        raise SettingsError(
            "C-10", f"method.conv '{name}' is no timm model.", todo="Use resnet50, resnet18 or resnet10t."
        )
    if not _is_resnet(name):
        raise SettingsError(
            "C-11", f"timm model '{name}' cannot be the convolutional stream.", "It is to have the four stages of a ResNet.",
            "Use resnet50, resnet18 or resnet10t.",
        )  # fmt: skip


@cache
def _is_resnet(name: str) -> bool:
    with torch.device("meta"):
        return type(timm.create_model(name)) is ResNet


def _through(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x
