"""Labels that a network guesses for pictures without one, and learns from where it is sure (FixMatch, arXiv:2001.07685)."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from tutelage.precision import wide


class Guesses(NamedTuple):
    """What is guessed of the unlabelled pictures."""

    classes: Int[Tensor, " b"]
    confidence: Float[Tensor, " b"]
    """The probability of the class."""
    sure: Bool[Tensor, " b"]
    """Those whose probability is above the threshold."""


def guessed(logits: Float[Tensor, "b classes"], threshold: float) -> Guesses:
    """The most probable class of each picture, and whether it is probable enough."""
    best = F.softmax(wide(logits), dim=-1).max(dim=-1)
    return Guesses(best.indices, best.values, best.values > threshold)


def guessed_cross_entropy(
    logits: Float[Tensor, "b classes"], targets: Float[Tensor, "b classes"], sure: Bool[Tensor, " b"]
) -> Float[Tensor, ""]:
    """(1 / N_u) sum_i sure_i H(target_i, softmax(logits_i)): all unlabelled pictures count, not the sure ones."""
    losses = F.cross_entropy(wide(logits), targets, reduction="none")
    return (losses * sure).mean()
