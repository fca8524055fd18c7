"""The losses, each a few lines beside its equation. All reduce to a scalar mean; all compute in at least float32."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tutelage.precision import wide

CosAxis = Literal["feature", "token"]
"""Cosine of each token over its channels (as the papers write), or of each channel over the tokens of a fold (what SdAE's
code computes) (methods A1)."""


def masked_mse(prediction: Float[Tensor, "b h p"], target: Float[Tensor, "b h p"]) -> Float[Tensor, ""]:
    """Mean over hidden patches of mean_c (prediction - target)^2 (MAE 3.1): both hold the hidden patches only."""
    return F.mse_loss(wide(prediction), wide(target))


def cosine_loss(
    prediction: Float[Tensor, "b h d"], target: Float[Tensor, "b h d"], *, axis: CosAxis = "feature", folds: int = 1
) -> Float[Tensor, ""]:
    """1 - mean cos(target, prediction) over the hidden tokens, in [0, 2] (SdAE; PseudoMAE eq. 1 as docs/methods reads it).

    With `axis="token"` each channel's values over the h/folds tokens of a fold are compared instead.
    """
    return 1 - cosine_similarity(prediction, target, axis=axis, folds=folds).mean()


def cosine_similarity(
    prediction: Float[Tensor, "b h d"], target: Float[Tensor, "b h d"], *, axis: CosAxis = "feature", folds: int = 1
) -> Float[Tensor, "bk r"]:
    """Cosines on the fold view [b K, h/K, d]: one per token (r = h/K), or one per channel (r = d)."""
    b, h, d = prediction.shape
    shape = (b * folds, h // folds, d)
    x, t = wide(prediction).reshape(shape), wide(target).reshape(shape)
    return F.cosine_similarity(x, t, dim=-1 if axis == "feature" else 1)


def soft_cross_entropy(
    logits: Float[Tensor, "*b m"], target: Float[Tensor, "*b m"], temperature: float
) -> Float[Tensor, ""]:
    """mean_rows - sum_c target_c log softmax(logits / temperature)_c (PseudoMAE eq. 3 and 4)."""
    return -(target * F.log_softmax(wide(logits) / temperature, dim=-1)).sum(-1).mean()


def entropy(target: Float[Tensor, "*b m"]) -> Float[Tensor, "*b"]:
    """- sum_c p_c log p_c of each row, in nats: the floor of the cross-entropy with that target."""
    return -torch.xlogy(target, target).sum(-1)


def tag_cross_entropy(logits: Float[Tensor, "b c"], tags: Int[Tensor, "b most"]) -> Float[Tensor, ""]:
    """Mean over pictures of - sum_c q_c log softmax(logits)_c, q uniform over a picture's tags (Mahajan et al. 2018).

    A row of `tags` has the numbers of a picture's tags, each once, then -1. With k tags the least there can be is ln k.
    Pictures without a tag do not count; 0, with a gradient of zeros, where none has any. Computed in at least float32.
    """
    known = tags >= 0
    chosen = F.log_softmax(wide(logits), dim=-1).gather(1, tags.clamp(min=0))
    losses = -(chosen * known).sum(1) / known.sum(1).clamp(min=1)
    return losses.sum() / known.any(1).sum().clamp(min=1)


def cross_entropy(logits: Float[Tensor, "b c"], labels: Int[Tensor, " b"], smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Mean over pictures with a label y >= 0 of - sum_c q_c log softmax(logits)_c, q = (1 - s) onehot(y) + s / classes.

    0, with a gradient of zeros, where no picture has a label. Computed in at least float32.
    """
    losses = F.cross_entropy(wide(logits), labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
    return losses / (labels >= 0).sum().clamp(min=1)
