"""LoMaR (Chen et al., WACV 2025, arXiv:2206.00790): rebuild hidden pixels from a small window around them.

There is no decoder. The encoder sees a few windows of each picture, mask tokens in place of hidden patches, and a linear layer
reads the pixels off its tokens. What it knows of places are distances within a window.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock
from tutelage.config import Count, Ratio
from tutelage.encoder import encode, grid_of, initialise, patch_of
from tutelage.losses import masked_mse
from tutelage.masking import check_windows, gather, windows
from tutelage.method import Method, MethodSettings, Output, seen
from tutelage.targets import patchify, standardise


class LoMaRSettings(MethodSettings):
    """LoMaR's settings, with its published defaults (docs/methods/lomar.md)."""

    name: Literal["lomar"] = "lomar"
    window: Count = 7
    """Side of a window in patches."""
    num_windows: Count = 4
    """Windows of a picture; no two begin in one row or column."""
    mask_ratio: Ratio = 0.8
    """Share of a window's patches that is hidden."""
    norm_pix: bool = True
    """Standardise the pixels of each target patch."""
    layout: Literal["correct", "code"] = "correct"
    """Every picture gets all its windows; or as the published code lays them out, which gives most pictures fewer: one
    where the number of windows divides that of the pictures in a pass."""

    @property
    def streams(self) -> dict[str, Stream]:
        """One view; keys for the places of the windows, and for a mask in each."""
        return {"train": Stream(views=("simple",), masks=1 + self.num_windows)}

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse windows that do not fit."""
        check_windows(grid, self.window, self.num_windows, self.mask_ratio)

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "LoMaR":
        """LoMaR around a student."""
        return LoMaR(self, vit)


class LoMaR(Method):
    """Local masked reconstruction."""

    def __init__(self, settings: LoMaRSettings, vit: VisionTransformer) -> None:
        super().__init__()
        self.settings = settings
        self.student = vit
        (ph, pw), channels = patch_of(vit), vit.patch_embed.proj.in_channels
        self.mask_token = nn.Parameter(torch.empty(1, 1, vit.embed_dim))
        self.predict = nn.Linear(vit.embed_dim, ph * pw * channels)
        nn.init.normal_(self.mask_token, std=0.02)
        initialise(self.predict)

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """Mean over the hidden patches of all windows of the squared error of their (standardised) pixels."""
        s = self.settings
        (x,), keys = batch["train"].views, batch["train"].keys
        ids = self.windows(keys[0])
        hidden = self._hidden(ids, keys[1:])

        ids_all, is_hidden = ids.flatten(1), hidden.flatten(1)  # [b, windows w]
        z = encode(self.student, x, ids_all, s.num_windows, hidden=is_hidden, mask_token=self.mask_token)
        y = self.predict(z.patches[is_hidden]).reshape(len(x), -1, self.predict.out_features)  # [b, h, p]
        t = patchify(x, patch_of(self.student))
        t = gather(standardise(t) if s.norm_pix else t, ids_all)[is_hidden].reshape(y.shape)

        loss = masked_mse(y, t)
        return Output(loss, {"reconstruction": loss}, self._first_window(ids[:, 0], hidden[:, 0], y, t))

    def windows(self, keys: Float[Tensor, "b n"]) -> Int[Tensor, "b k w"]:
        """The patches of the windows of each picture.

        In the code's layout one set of windows serves all b pictures, and picture i gets number (i + j b) mod k as its
        j-th: the code numbers rows of windows picture by picture, and rows of pictures window by window.
        """
        ids = windows(keys, grid_of(self.student), self.settings.window, self.settings.num_windows)
        if self.settings.layout == "correct":
            return ids
        b, k, _ = ids.shape
        numbers = torch.arange(b, device=ids.device)[:, None] + b * torch.arange(k, device=ids.device)
        return ids[0][numbers % k]

    def _hidden(self, ids: Int[Tensor, "b k w"], keys: tuple[Float[Tensor, "b n"], ...]) -> Bool[Tensor, "b k w"]:
        """Which patches of each window are hidden: int(w r) of them, those with the largest keys."""
        num_hidden = int(ids.shape[-1] * self.settings.mask_ratio)
        own = torch.stack([row.gather(1, window) for row, window in zip(keys, ids.unbind(1), strict=True)], dim=1)
        last = torch.argsort(own, dim=-1, stable=True)[..., ids.shape[-1] - num_hidden :]
        return torch.zeros_like(ids, dtype=torch.bool).scatter(-1, last, True)

    def _first_window(
        self, ids: Int[Tensor, "b w"], hidden: Bool[Tensor, "b w"], y: Float[Tensor, "b h p"], t: Float[Tensor, "b h p"]
    ) -> dict[str, Tensor]:
        """What was seen of the first window of each picture: the windows overlap, and a picture shows one at a time."""
        b, rows, cols = len(ids), *grid_of(self.student)
        ids_mask = ids[hidden].reshape(b, -1)
        y, t = y[:, : ids_mask.shape[1]], t[:, : ids_mask.shape[1]]
        pixels = y.new_zeros(b, rows * cols, y.shape[-1]).scatter(1, ids_mask[..., None].expand_as(y), y.detach())
        outside = torch.ones(b, rows * cols, dtype=torch.bool, device=ids.device).scatter(1, ids, False)
        return seen(ids_mask=ids_mask, pixels=pixels, target=t, unseen=outside)
