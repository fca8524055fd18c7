"""Pictures with guessed labels mixed in pairs, the surer one more (Semi-ViT, arXiv:2208.05688, 3.3)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def neighbours_of(count: int, device: torch.device | str = "cpu") -> Int[Tensor, " b"]:
    """Who is mixed with whom: the first with the second, the third with the fourth, ...; a last odd one with itself.

    Pictures come in random order, so that these pairs are random ones; both of a pair are mixed with each other.
    """
    return (torch.arange(count, device=device) ^ 1).clamp(max=count - 1)


def pair_weights(confidence: Float[Tensor, " b"], pair: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """lambda_i = p_i / (p_i + p_pi(i)): how much of picture i stays, by how sure its guess is."""
    return confidence / (confidence + confidence[pair])


def mix_pairs(
    pictures: Float[Tensor, "b c h w"],
    pair: Int[Tensor, " b"],
    weights: Float[Tensor, " b"],
    draws: Float[Tensor, "b 3"],
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
    """Each picture mixed with its pair, and the weight that it has then.

    By a coin (`draws[:, 0]`) either blended, x_i lambda + x_pi(i) (1 - lambda) (mixup), or with a rectangle of the pair's,
    1 - lambda of the area about a centre in `draws[:, 1:]`, pasted in (cutmix); there the weight is corrected to the area
    that is left, as a rectangle is cut off at the border.
    """
    _, _, h, w = pictures.shape
    blended = _along(weights) * pictures + _along(1 - weights) * pictures[pair]
    inside = _spans(draws[:, 1], weights, h).unsqueeze(2) & _spans(draws[:, 2], weights, w).unsqueeze(1)  # [b, h, w]
    pasted = torch.where(inside.unsqueeze(1), pictures[pair], pictures)
    cut = draws[:, 0] >= 0.5
    left = 1 - inside.flatten(1).to(weights.dtype).mean(1)
    return torch.where(_along(cut), pasted, blended), torch.where(cut, left, weights)


def mixed_targets(
    classes: Int[Tensor, " b"],
    pair: Int[Tensor, " b"],
    weights: Float[Tensor, " b"],
    num_classes: int,
    smoothing: float = 0.0,
) -> Float[Tensor, "b classes"]:
    """Lambda q_i + (1 - lambda) q_pi(i), with q = (1 - s) onehot + s / classes; each row sums to 1."""
    q = smoothed(torch.nn.functional.one_hot(classes, num_classes).to(weights.dtype), smoothing)
    return weights[:, None] * q + (1 - weights)[:, None] * q[pair]


def smoothed(targets: Float[Tensor, "b classes"], share: float) -> Float[Tensor, "b classes"]:
    """(1 - s) q + s / classes: off s / C, on 1 - s + s / C of a hard label; rows that sum to 1 still do."""
    return (1 - share) * targets + share / targets.shape[1]


def _spans(centre: Float[Tensor, " b"], weights: Float[Tensor, " b"], length: int) -> Tensor:
    """True at the pixels of a span of sqrt(1 - lambda) of the length about a centre in 0..1, as far as it is inside."""
    half = ((1 - weights).sqrt() * length / 2)[:, None]
    middle, pixels = (centre * length)[:, None], torch.arange(length, device=centre.device) + 0.5
    return (pixels - middle).abs() < half


def _along(values: Tensor) -> Tensor:
    return values[:, None, None, None]
