"""Image relative position encoding: what a token adds to a key depends on how far away it is (Wu et al., ICCV 2021).

The kind that LoMaR takes: contextual, on keys, product of rows and columns, shared by the heads of a block.
"""

import math
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

RATIO = 1.9
"""iRPE's alpha, the distance up to which offsets are told apart exactly; beta is twice, gamma eight times as much."""
REACH = int(2 * RATIO)
"""Offsets fall into 2 * REACH + 1 = 7 buckets along each axis."""
NUM_BUCKETS = (2 * REACH + 1) ** 2 + 1
"""A bucket for each pair of row and column offsets, and one for whatever involves the class token."""


def piecewise(offset: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """The bucket, from -REACH to REACH, of an offset along one axis: exact when near, in logarithms when far (eq. 18).

    0, 1, 2-3 and 4 or more patches away are told apart, and the direction.
    """
    distance = offset.abs().double()
    far = RATIO + (distance.clamp(min=RATIO) / RATIO).log() / math.log(8) * RATIO
    bucket = torch.where(distance <= RATIO, distance, far).round().clamp(max=REACH)
    return (offset.sign() * bucket).long()


def buckets(ids: Int[Tensor, "b t"], columns: int) -> Int[Tensor, "b t1 t1"]:
    """The bucket of each pair (query, key) of patches `ids` in a grid of so many columns, with a class token in front."""
    rows, cols = ids // columns, ids % columns
    offsets = [piecewise(place[:, :, None] - place[:, None, :]) + REACH for place in (rows, cols)]
    pairs = offsets[0] * (2 * REACH + 1) + offsets[1]
    return F.pad(pairs, (1, 0, 1, 0), value=NUM_BUCKETS - 1)


@cache
def grid_buckets(grid: tuple[int, int], device: torch.device) -> Int[Tensor, "1 n1 n1"]:
    """Those of all patches of a picture in their order."""
    rows, columns = grid
    return buckets(torch.arange(rows * columns, device=device)[None], columns)


class RelativeAttention(nn.Module):
    """An attention layer of timm's, with a vector for each bucket that its queries are compared with."""

    def __init__(self, attention: Any, grid: tuple[int, int]) -> None:
        """Takes over the layers of `attention`. The vectors begin at 0: then it is plain attention without positions."""
        super().__init__()
        self.grid = grid
        self.num_heads, self.scale = int(attention.num_heads), float(attention.scale)
        self.qkv, self.q_norm, self.k_norm = attention.qkv, attention.q_norm, attention.k_norm
        self.proj = attention.proj
        head_dim = attention.qkv.out_features // (3 * self.num_heads)
        self.relative_positions = nn.Parameter(torch.zeros(NUM_BUCKETS, head_dim))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        attn_mask: None = None,
        is_causal: bool = False,
        *,
        buckets: Int[Tensor, "b n n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """softmax(q k^T / sqrt(size) + q r_bucket) v; without `buckets` those of a whole picture, as timm calls it."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if buckets is None:
            buckets = grid_buckets(self.grid, x.device)
        by_bucket = q @ self.relative_positions.T.to(q.dtype)  # [b, heads, n, buckets]
        bias = by_bucket.gather(-1, buckets[:, None].expand(b, self.num_heads, n, n))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))  # type: ignore[no-any-return]
