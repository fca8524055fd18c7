"""Which patches are visible, and how the hidden ones fall into folds. Pure functions of keys drawn with the picture."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tutelage.errors import SettingsError


@dataclass(frozen=True)
class PatchMask:
    """A partition of the patches of each picture into visible (`ids_keep`) and hidden (`ids_mask`), in shuffled order."""

    ids_keep: Int[Tensor, "b v"]
    ids_mask: Int[Tensor, "b h"]

    @property
    def ids_restore(self) -> Int[Tensor, "b n"]:
        """Where each patch stands in [visible, hidden]."""
        return torch.argsort(torch.cat([self.ids_keep, self.ids_mask], dim=1), dim=1)

    @property
    def hidden_map(self) -> Bool[Tensor, "b n"]:
        """True where a patch is hidden: the m of the papers."""
        b, n = self.ids_keep.shape[0], self.ids_keep.shape[1] + self.ids_mask.shape[1]
        return torch.zeros(b, n, dtype=torch.bool, device=self.ids_mask.device).scatter(1, self.ids_mask, True)

    def visible(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b v d"]:
        """The visible patches of x."""
        return gather(x, self.ids_keep)

    def hidden(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b h d"]:
        """The hidden patches of x, in shuffled order: fold k is rows [k n, (k+1) n)."""
        return gather(x, self.ids_mask)

    def restore(self, visible: Float[Tensor, "b v d"], hidden: Float[Tensor, "b h d"]) -> Float[Tensor, "b n d"]:
        """Visible and hidden patches, back in the order of the picture."""
        return gather(torch.cat([visible, hidden], dim=1), self.ids_restore)


def gather(x: Float[Tensor, "b n d"], ids: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """Rows `ids` of each picture's tokens."""
    return x.gather(1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def random_mask(keys: Float[Tensor, "b n"], mask_ratio: float) -> PatchMask:
    """MAE's mask: the patches in the order of their keys; the first int(n (1 - mask_ratio)) stay visible (MAE, 3.1)."""
    ids = torch.argsort(keys, dim=1, stable=True)
    num_visible = visible_count(keys.shape[1], mask_ratio)
    return PatchMask(ids[:, :num_visible], ids[:, num_visible:])


def visible_count(num_patches: int, mask_ratio: float) -> int:
    """How many patches stay visible: int(n (1 - r)), as MAE counts."""
    return int(num_patches * (1 - mask_ratio))


def windows(keys: Float[Tensor, "b n"], grid: tuple[int, int], size: int, count: int) -> Int[Tensor, "b count w"]:
    """The patches of `count` square windows in each picture, row by row: no two begin in one row or column (LoMaR).

    The tops are the first of the possible rows in the order of their keys, the left edges those of the columns.
    """
    rows, cols = (side - size + 1 for side in grid)
    tops = torch.argsort(keys[:, :rows], dim=1, stable=True)[:, :count]
    lefts = torch.argsort(keys[:, rows : rows + cols], dim=1, stable=True)[:, :count]
    steps = torch.arange(size, device=keys.device)
    inside = (steps[:, None] * grid[1] + steps).flatten()
    return (tops * grid[1] + lefts)[..., None] + inside


def check_windows(grid: tuple[int, int], size: int, count: int, mask_ratio: float) -> None:
    """Refuse windows that do not fit the picture, or leave nothing to see or to rebuild."""
    if size > min(grid):
        raise SettingsError(
            "N-06",
            f"method.window is {size}, but a picture has {grid[0]}x{grid[1]} patches.",
            todo=f"Use a window of at most {min(grid)} patches, a larger image_size or a smaller patch_size.",
        )
    places = min(grid) - size + 1
    if count > places:
        raise SettingsError(
            "N-06",
            f"method.num_windows is {count}, but windows of {size} can begin in {places} rows or columns only.",
            "No two windows of a picture begin in one row or column.",
            f"Use at most {places} windows, or smaller ones.",
        )
    hidden = int(size * size * mask_ratio)
    if not 0 < hidden < size * size:
        raise SettingsError(
            "N-05",
            f"method.mask_ratio {mask_ratio} hides {hidden} of the {size * size} patches of a window.",
            "There must be something to see and something to rebuild.",
            "Use a mask_ratio nearer to 0.75, or a larger window.",
        )


def check_mask(num_patches: int, mask_ratio: float) -> None:
    """Refuse a mask that leaves nothing to see or nothing to rebuild."""
    if not 0 < visible_count(num_patches, mask_ratio) < num_patches:
        raise SettingsError(
            "N-05",
            f"mask_ratio {mask_ratio} leaves {visible_count(num_patches, mask_ratio)} of {num_patches} patches visible.",
            "A masked autoencoder needs at least one visible and one hidden patch.",
            "Use a mask_ratio nearer to 0.75, a larger image_size or a smaller patch_size.",
        )


def check_folds(num_patches: int, mask_ratio: float, folds: int, name: str = "method.folds") -> None:
    """Refuse folds that do not divide the hidden patches, naming folds and mask ratios that would do."""
    hidden = num_patches - visible_count(num_patches, mask_ratio)
    if hidden % folds == 0:
        return
    fitting = [k for k in range(1, min(hidden, 16) + 1) if hidden % k == 0]
    # Rounded down, since the number of visible patches is rounded down too; what rounding still spoils is not offered.
    ratios = [math.floor(h / num_patches * 1e4) / 1e4 for h in range(folds, num_patches, folds)]
    ratios = [r for r in ratios if r > 0 and (num_patches - visible_count(num_patches, r)) % folds == 0]
    nearest = sorted(sorted(ratios, key=lambda r: abs(r - mask_ratio))[:3])
    other = f", or with {folds} folds a mask_ratio of {', '.join(f'{r:g}' for r in nearest)}" if nearest else ""
    raise SettingsError(
        "C-21",
        f"{name} is {folds}, but {hidden} of {num_patches} patches are hidden and {folds} does not divide {hidden}.",
        "A teacher sees the hidden patches in folds of equal size.",
        f"Use one of the folds {', '.join(map(str, fitting))}{other}.",
    )
