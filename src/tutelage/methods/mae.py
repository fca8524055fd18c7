"""MAE (He et al., CVPR 2022, arXiv:2111.06377): rebuild the pixels of hidden patches from the visible ones."""

import math
from typing import Literal

from timm.models.vision_transformer import VisionTransformer

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock
from tutelage.config import Ratio
from tutelage.decoder import Decoder, DecoderSettings
from tutelage.encoder import encode, grid_of, patch_of
from tutelage.losses import masked_mse
from tutelage.masking import check_mask, random_mask
from tutelage.method import Method, MethodSettings, Output, seen
from tutelage.targets import patchify, standardise


class MAESettings(MethodSettings):
    """MAE's settings, with its published defaults."""

    name: Literal["mae"] = "mae"
    mask_ratio: Ratio = 0.75
    """Share of the patches hidden from the encoder (4.1)."""
    norm_pix: bool = True
    """Standardise the pixels of each target patch (4.1, Table 1d)."""
    decoder: DecoderSettings = DecoderSettings()

    @property
    def streams(self) -> dict[str, Stream]:
        """One view, one mask."""
        return {"train": Stream(views=("simple",))}

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse a mask that leaves nothing to see or to rebuild."""
        check_mask(math.prod(grid), self.mask_ratio)
        self.decoder.check()

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "MAE":
        """MAE around a student."""
        return MAE(self, vit)


class MAE(Method):
    """Masked autoencoder."""

    def __init__(self, settings: MAESettings, vit: VisionTransformer) -> None:
        super().__init__()
        self.settings = settings
        self.student = vit
        (ph, pw), channels = patch_of(vit), vit.patch_embed.proj.in_channels
        self.decoder = Decoder(settings.decoder, width_in=vit.embed_dim, out=ph * pw * channels, grid=grid_of(vit))

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """Mean over hidden patches of the squared error of their (standardised) pixels."""
        (x,), (keys,) = batch["train"].views, batch["train"].keys
        mask = random_mask(keys, self.settings.mask_ratio)

        z = encode(self.student, x, mask.ids_keep)
        y = self.decoder(z, mask).patches  # [b, n, p]
        t = patchify(x, patch_of(self.student))
        if self.settings.norm_pix:
            t = standardise(t)

        t = mask.hidden(t)
        loss = masked_mse(mask.hidden(y), t)
        return Output(loss, {"reconstruction": loss}, seen(ids_mask=mask.ids_mask, pixels=y, target=t))
