"""Where half precision is left: statistics and losses are computed in at least float32."""

import torch
from jaxtyping import Float
from torch import Tensor


def wide(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """`x` in float32, or as it is in float64: bfloat16 keeps two to three digits."""
    return x if x.dtype == torch.float64 else x.float()
