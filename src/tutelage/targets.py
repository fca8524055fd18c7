"""What the student is asked to predict: pixels, standardised teacher tokens, cluster assignments, nearest tokens."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tutelage.distributed import all_max, all_sum, all_sum_with_gradient
from tutelage.precision import wide

EPS = 1e-6

TargetNorm = Literal["token", "picture", "batch", "none"]
"""Over what a teacher's tokens are standardised (methods A3): each token over its channels (published), or each channel
over the hidden tokens of a picture, over the batch and its tokens, or not at all."""

SinkhornScope = Literal["global", "per_fold", "per_rank", "positionwise"]
"""Which rows are normalised together (methods A13)."""


# --- pixels -----------------------------------------------------------------------------------------------------------


def patchify(pictures: Float[Tensor, "b c h w"], patch: tuple[int, int]) -> Float[Tensor, "b n p"]:
    """Pictures as rows of patches, each in the order (row in patch, column in patch, channel) (MAE)."""
    b, c, h, w = pictures.shape
    ph, pw = patch
    x = pictures.reshape(b, c, h // ph, ph, w // pw, pw)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // ph) * (w // pw), ph * pw * c)  # [b, rows * cols, p]


def unpatchify(
    patches: Float[Tensor, "b n p"], patch: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """The inverse of `patchify`, for a grid of (rows, columns)."""
    b, _, p = patches.shape
    (ph, pw), (rows, cols) = patch, grid
    c = p // (ph * pw)
    x = patches.reshape(b, rows, cols, ph, pw, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, rows * ph, cols * pw)


def standardise(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """(x - mean) / sqrt(unbiased variance + 1e-6) over the last axis, without a learned scale, in at least float32.

    MAE's norm_pix of a patch (3.1), and PseudoMAE's equation 2 of a teacher token. bfloat16 keeps barely two digits of
    the variance, so half precision is left first.
    """
    x = wide(x)
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + EPS).sqrt()


def standardise_channels(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Each channel minus its mean, over its unbiased deviation (variance + 1e-6), over all rows of all processes.

    A batch normalisation without a learned scale or running averages, differentiable, in at least float32.
    """
    x = wide(x)
    rows = tuple(range(x.ndim - 1))
    count = all_sum(x.new_tensor(float(x[..., 0].numel())))
    mean = all_sum_with_gradient(x.sum(rows)) / count
    variance = all_sum_with_gradient(((x - mean) ** 2).sum(rows)) / (count - 1)
    return (x - mean) / (variance + EPS).sqrt()


# --- tokens -----------------------------------------------------------------------------------------------------------


def token_target(tokens: Float[Tensor, "b n d"], norm: TargetNorm) -> Float[Tensor, "b n d"]:
    """Teacher tokens as a reconstruction target (PseudoMAE eq. 2 with `token`; docs/methods, A3, for the others).

    `batch` uses the mean and variance over the tokens of all processes' micro-batches.
    """
    x = wide(tokens)
    if norm == "token":
        return standardise(x)
    if norm == "picture":
        return standardise(x.transpose(1, 2)).transpose(1, 2)
    if norm == "batch":
        return standardise_channels(x)
    return x


@torch.no_grad()
def nearest_tokens(
    queries: Float[Tensor, "b q d"], candidates: Float[Tensor, "b c d"], metric: Literal["cosine", "l2"] = "cosine"
) -> Int[Tensor, "b q"]:
    """For each query the index of the nearest candidate of the same picture (PseudoMAE 3.3, "min dist"; methods A16).

    Cosine by default: the cosine loss leaves the student's norm free, so Euclidean distances between raw features
    collapse onto the candidates of smallest norm (docs/methods, A16).
    """
    # NOTE a footgun: .float() alone would not do, autocast takes bmm back to bfloat16, where tokens that share much look alike.
    with torch.autocast(queries.device.type, enabled=False):
        q, c = wide(queries), wide(candidates)
        if metric == "cosine":
            return torch.bmm(F.normalize(q, dim=-1), F.normalize(c, dim=-1).transpose(1, 2)).argmax(-1)
        return torch.cdist(q, c).argmin(-1)


# --- cluster assignments ----------------------------------------------------------------------------------------------


@torch.no_grad()
def sinkhorn(
    logits: Float[Tensor, "rows m"], temperature: float, iterations: int = 3, *, all_ranks: bool = True
) -> Float[Tensor, "rows m"]:
    """Soft assignments of rows to m prototypes, each row summing to 1, the prototypes used about equally (SwAV, DINOv2).

    Each iteration divides every prototype by its mass over all rows (of all processes), then every row by its sum: done
    in the log domain, where |logits / temperature| of 1e4 stays finite. In float32 (float64 stays), whatever autocast
    says. After 3 iterations the columns are balanced only roughly.
    """
    with torch.autocast(logits.device.type, enabled=False):
        x = wide(logits) / temperature
        for _ in range(iterations):
            x = x - _logsumexp_rows(x, all_ranks)
            x = x - x.logsumexp(1, keepdim=True)
        return x.exp() if iterations else x.softmax(1)


def _logsumexp_rows(x: Float[Tensor, "rows m"], all_ranks: bool) -> Float[Tensor, " m"]:
    """Log sum exp over the rows, of all processes if asked."""
    if not all_ranks:
        return x.logsumexp(0)
    # A process may hold no row of a position; its maximum is then no number at all, and its sum nothing.
    top = all_max(x.amax(0) if x.shape[0] else x.new_full((x.shape[1],), -torch.inf))
    return top + all_sum((x - top).exp().sum(0)).log()


@torch.no_grad()
def assign(
    logits: Float[Tensor, "b t m"],
    temperature: float,
    *,
    folds: int,
    scope: SinkhornScope = "global",
    iterations: int = 3,
    positions: Int[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b t m"]:
    """Sinkhorn assignments of a teacher's t tokens per picture (fold k is tokens [k t/K, (k+1) t/K)).

    `scope` says which rows compete for the prototypes (methods A13): all of them over all processes (`global`), those
    of the same fold, those of this process, or those at the same `positions` of the picture (CAPI).
    """
    b, t, m = logits.shape
    if scope == "per_fold":
        parts = logits.reshape(b, folds, t // folds, m).unbind(1)
        rows = [sinkhorn(part.reshape(-1, m), temperature, iterations).reshape(b, t // folds, m) for part in parts]
        return torch.cat(rows, dim=1)
    if scope == "positionwise" and positions is not None:
        return _sinkhorn_by_position(logits, temperature, iterations, positions)
    flat = sinkhorn(logits.reshape(-1, m), temperature, iterations, all_ranks=scope != "per_rank")
    return flat.reshape(b, t, m)


def _sinkhorn_by_position(
    logits: Float[Tensor, "b t m"], temperature: float, iterations: int, positions: Int[Tensor, "b t"]
) -> Float[Tensor, "b t m"]:
    """Sinkhorn within the rows that share a position, over all processes.

    Every process walks the same positions, those that no row of it has included, so that collectives stay matched.
    """
    out = torch.empty_like(wide(logits))
    last = all_max(positions.max())
    for position in range(int(last) + 1):
        rows = positions == position
        out[rows] = sinkhorn(logits[rows], temperature, iterations)
    return out
