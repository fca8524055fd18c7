"""The decoder: mask tokens take the places of the hidden patches, and light blocks predict any width."""

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tutelage.config import Depth, Settings, Width
from tutelage.encoder import Tokens, initialise, sincos_positions
from tutelage.errors import SettingsError
from tutelage.masking import PatchMask


class DecoderSettings(Settings):
    """Size of the decoder; 512 x 8 x 16 for ViT-B, L and H (MAE 4.1; SdAE takes it for ViT-S too)."""

    width: Width = 512
    """Token width, a multiple of 4."""
    depth: Depth = 8
    """Number of blocks."""
    heads: Width = 16
    """Number of attention heads."""

    def check(self) -> None:
        """Refuse a width that the heads or the positions do not divide."""
        if self.width % self.heads or self.width % 4:
            raise SettingsError(
                "C-22",
                f"method.decoder.width {self.width} is no multiple of 4 and of method.decoder.heads {self.heads}.",
                "Heads share the width equally, and sine-cosine positions come in fours.",
                "Change one of the two.",
            )


class Decoder(nn.Module):
    """Class token and visible tokens in, a prediction of width `out` for the class token and every patch out."""

    positions: Tensor

    def __init__(self, settings: DecoderSettings, *, width_in: int, out: int, grid: tuple[int, int]) -> None:
        super().__init__()
        width = settings.width
        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(
            *(
                Block(width, settings.heads, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
                for _ in range(settings.depth)
            )
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, out)
        self.register_buffer("positions", sincos_positions(width, grid), persistent=False)
        initialise(self)

    def forward(self, tokens: Tokens, mask: PatchMask) -> Tokens:
        """Predictions for the class token [b, 1, out] and all patches [b, n, out], in the order of the picture."""
        x = self.embed(torch.cat([tokens.cls, tokens.patches], dim=1))
        hidden = self.mask_token.to(x.dtype).expand(x.shape[0], mask.ids_mask.shape[1], -1)
        x = torch.cat([x[:, :1], mask.restore(x[:, 1:], hidden)], dim=1) + self.positions
        x = self.predict(self.norm(self.blocks(x)))
        return Tokens(x[:, :1], x[:, 1:])
