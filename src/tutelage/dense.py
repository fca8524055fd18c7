"""From a ViT's tokens to a class for each pixel: four scales, UPerNet, and the linear head (docs/methods/segmentation.md)."""

from typing import Literal

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.clock import Clock
from tutelage.distributed import world_size

Norm = Literal["batch", "layer"]
"""Batch normalisation over all processes, as published; or each pixel over its channels, which needs no other pictures."""
Map = Float[Tensor, "b c h w"]
POOLS = (1, 2, 3, 6)
"""Sides in cells of UPerNet's pooled maps."""


def taps(depth: int) -> tuple[int, int, int, int]:
    """The blocks, counted from 0, after which features are taken: a third, half, two thirds and all of the way.

    3, 5, 7, 11 of 12 and 7, 11, 15, 23 of 24 (BEiT, CAE, SdAE).
    """
    first, second, third = (max(1, round(depth * share)) - 1 for share in (1 / 3, 1 / 2, 2 / 3))
    return first, second, third, depth - 1


def features(vit: VisionTransformer, x: Float[Tensor, "b c h w"]) -> list[Map]:
    """Patch tokens after four blocks as maps [b, d, rows, columns], not normed."""
    wanted = taps(len(vit.blocks))
    blocks = sorted(set(wanted))  # of few blocks some are asked twice
    found = dict(zip(blocks, vit.forward_intermediates(x, indices=blocks, intermediates_only=True), strict=True))
    return [found[i] for i in wanted]


class FourScales(nn.Module):
    """Maps of a ViT at 4, 2, 1 and 1/2 times its grid: transposed convolutions up, a maximum down (BEiT's adapter)."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2),
            norm_of(norm)(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, 2),
        )
        self.up2 = nn.ConvTranspose2d(width, width, 2, 2)

    def forward(self, maps: list[Map]) -> list[Map]:
        """The first map four times as large, the second twice, the third as it is, the fourth half as large."""
        half = F.max_pool2d(maps[3], 2) if min(maps[3].shape[-2:]) > 1 else maps[3]
        return [self.up4(maps[0]), self.up2(maps[1]), maps[2], half]


class UPerHead(nn.Module):
    """Pyramid pooling on the smallest map, a feature pyramid over all, and a class for each pixel of the largest (Xiao et al.,
    ECCV 2018, arXiv:1807.10221, figure 4).
    """

    def __init__(self, width: int, channels: int, num_classes: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(_conv(width, channels, 1, norm) for _ in POOLS)
        self.bottleneck = _conv(width + len(POOLS) * channels, channels, 3, norm)
        self.lateral = nn.ModuleList(_conv(width, channels, 1, norm) for _ in range(3))
        self.smooth = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in range(3))
        self.fuse = _conv(4 * channels, channels, 3, norm)
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))

    def forward(self, maps: list[Map]) -> Map:
        """Logits [b, classes, 4 rows, 4 columns]."""
        top = maps[3]
        pooled = [
            _to(conv(F.adaptive_avg_pool2d(top, side)), top) for side, conv in zip(POOLS, self.pooled, strict=True)
        ]
        levels = [conv(x) for conv, x in zip(self.lateral, maps[:3], strict=True)]
        levels.append(self.bottleneck(torch.cat([top, *pooled], 1)))
        for i in (2, 1, 0):
            levels[i] = levels[i] + _to(levels[i + 1], levels[i])
        smoothed = [*(conv(x) for conv, x in zip(self.smooth, levels[:3], strict=True)), levels[3]]
        fused: Tensor = self.fuse(torch.cat([_to(x, levels[0]) for x in smoothed], 1))
        logits: Tensor = self.classify(fused)
        return logits


class FCNHead(nn.Sequential):
    """A convolution and a class for each cell of one map: the auxiliary head (Long et al., CVPR 2015)."""

    def __init__(self, width: int, channels: int, num_classes: int, norm: Norm, dropout: float) -> None:
        super().__init__(_conv(width, channels, 3, norm), nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))


class LinearHead(nn.Module):
    """A class for each patch from its tokens after the four blocks, standardised: what features tell without a decoder."""

    def __init__(self, width: int, num_classes: int, norm: Norm) -> None:
        super().__init__()
        self.norm, self.classify = norm_of(norm)(4 * width), nn.Conv2d(4 * width, num_classes, 1)

    def forward(self, maps: list[Map]) -> Map:
        """Logits [b, classes, rows, columns]."""
        logits: Tensor = self.classify(self.norm(torch.cat(maps, 1)))
        return logits


class KeptBuffers:
    """What a step must not change where it is skipped: the running statistics of a module's batch norms."""

    def __init__(self) -> None:
        self._before: tuple[int, list[Tensor]] | None = None

    def keep(self, module: nn.Module, clock: Clock) -> None:
        """As they are, in the first pass of a step of training."""
        if module.training and self._before is None:
            self._before = clock.updates, [buffer.clone() for buffer in module.buffers()]

    def settle(self, module: nn.Module, clock: Clock) -> None:
        """Put them back where the step was skipped."""
        if self._before and clock.updates == self._before[0]:
            for buffer, kept in zip(module.buffers(), self._before[1], strict=True):
                buffer.copy_(kept)
        self._before = None


def norm_of(norm: Norm) -> type[nn.Module]:
    """The layer that norms maps of so many channels; batch statistics are shared by processes on GPUs."""
    shared = world_size() > 1 and torch.distributed.get_backend() == "nccl"
    kinds: dict[str, type[nn.Module]] = {
        "layer": LayerNorm2d,
        "batch": nn.SyncBatchNorm if shared else nn.BatchNorm2d,
    }
    return kinds[norm]


def _conv(width: int, channels: int, side: int, norm: Norm) -> nn.Sequential:
    conv = nn.Conv2d(width, channels, side, padding=side // 2, bias=False)
    return nn.Sequential(conv, norm_of(norm)(channels), nn.ReLU())


def _to(x: Map, like: Map) -> Map:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
