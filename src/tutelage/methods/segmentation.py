"""Semantic segmentation: the encoder and a decoder learn which pixel is what (UPerNet as in BEiT, MAE and SdAE; methods 3.6).

The layer-wise decay of the learning rate is the optimizer's (`optim.layer_decay`), scale and colours the view's.
"""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from tutelage.batch import IGNORED, Annotation, Batch, Stream
from tutelage.clock import Clock
from tutelage.config import NonNegative, Share, Width
from tutelage.dense import FCNHead, FourScales, KeptBuffers, LinearHead, Norm, UPerHead, features
from tutelage.errors import DataError, SettingsError
from tutelage.method import Method, MethodSettings, Output, seen
from tutelage.precision import wide


class SegmentationSettings(MethodSettings):
    """The decoder."""

    name: Literal["segmentation"] = "segmentation"
    head: Literal["upernet", "linear"] = "upernet"
    """UPerNet on four scales, or one linear layer on the tokens, which leaves more to the encoder."""
    channels: Width | None = None
    """UPerNet only: its width; by default the encoder's, as published."""
    norm: Norm = "batch"
    """Normalisation in the decoder: over the pictures of a pass (of all GPUs; with a micro_batch less than the batch), as
    published, or of each pixel over its channels."""
    dropout: Share = 0.1
    """UPerNet only: share of the channels dropped before the last layer."""
    auxiliary_weight: NonNegative = 0.4
    """UPerNet only: weight of a second loss, of a small head on the third scale; 0 is without."""
    auxiliary_channels: Width = 256
    """Width of that head."""

    @property
    def streams(self) -> dict[str, Stream]:
        """One view of the pictures that have a mask."""
        return {"train": Stream(views=("segment",), labels="known")}

    @property
    def annotation(self) -> Annotation:
        """The class of each pixel."""
        return "masks"

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse batch statistics of one picture, of which UPerNet pools one number a channel. Raises SettingsError C-25."""
        if pictures < 2 and self.head == "upernet" and self.norm == "batch":
            raise SettingsError(
                "C-25",
                "UPerNet norms over the pictures of a pass, and a pass has one.",
                todo="Use a larger micro_batch, or --method.norm layer.",
            )

    def check_classes(self, data: str, shown: int) -> None:
        """Refuse training pictures without masks. Raises DataError D-34."""
        if shown == 0:
            raise DataError(
                "D-34",
                f"the training pictures of {data} have no masks in which a pixel counts.",
                "There is nothing to learn from.",
                "Give some of them masks with the values of classes; 255 counts for nothing.",
            )

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "Segmentation":
        """A decoder of `num_classes` classes on an encoder, whose positions learn too."""
        return Segmentation(self, vit, num_classes)


class Segmentation(Method):
    """An encoder and a decoder that learn together."""

    def __init__(self, settings: SegmentationSettings, vit: VisionTransformer, num_classes: int) -> None:
        super().__init__()
        s = self.settings = settings
        self.student, width = vit, vit.embed_dim
        if vit.pos_embed is not None:
            vit.pos_embed.requires_grad_(True)
        vit.norm.requires_grad_(False)  # features are taken before it
        self.head: LinearHead | UPerHead
        if s.head == "linear":
            self.head = LinearHead(width, num_classes, s.norm)
        else:
            self.scales = FourScales(width, s.norm)
            self.head = UPerHead(width, s.channels or width, num_classes, s.norm, s.dropout)
            if s.auxiliary_weight:
                self.auxiliary = FCNHead(width, s.auxiliary_channels, num_classes, s.norm, s.dropout)
        self._kept = KeptBuffers()

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """Cross-entropy of pixels, and with its weight that of the auxiliary head."""
        self._kept.keep(self, clock)
        (x,), masks, s = batch["train"].views, batch["train"].masks, self.settings
        assert masks is not None
        maps = self._maps(x)
        logits = self.head(maps)
        parts = {"cross_entropy": pixel_cross_entropy(logits, masks)}
        loss = parts["cross_entropy"]
        if s.head == "upernet" and s.auxiliary_weight:
            parts["auxiliary"] = pixel_cross_entropy(self.auxiliary(maps[2]), masks)
            loss = loss + s.auxiliary_weight * parts["auxiliary"]
        return Output(loss, parts, seen(pixel_logits=logits))

    def after_step(self, clock: Clock) -> None:
        """A step that was skipped leaves no trace in the running statistics of the batch norms."""
        self._kept.settle(self, clock)

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h w"]:
        """Of each pixel of pictures of the encoder's size."""
        return to_pixels(self.head(self._maps(x)), x.shape[-2:])

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = features(self.student, x)
        return maps if self.settings.head == "linear" else self.scales(maps)


def pixel_cross_entropy(logits: Float[Tensor, "b classes h w"], masks: UInt8[Tensor, "b h2 w2"]) -> Float[Tensor, ""]:
    """Mean over the pixels that count of -log softmax(logits)[class], logits brought to the masks' size (bilinear)."""
    truth = masks.long()
    losses = F.cross_entropy(to_pixels(wide(logits), masks.shape[-2:]), truth, ignore_index=IGNORED, reduction="sum")
    return losses / (truth != IGNORED).sum().clamp(min=1)


def to_pixels(logits: Float[Tensor, "b classes h w"], size: torch.Size) -> Float[Tensor, "b classes h2 w2"]:
    """Logits at another size (bilinear)."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
