"""Is it learning? Numbers that say so without labels, and one that needs some. Pure functions, without gradient.

`monitor` puts together what applies to a method, from what its step has `seen`.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.losses import CosAxis, cosine_loss, entropy, tag_cross_entropy
from tutelage.method import Method, Output
from tutelage.neighbours import knn_predict
from tutelage.precision import wide

# --- features ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def rank_me(features: Float[Tensor, "n d"]) -> float:
    """How many directions the features use, from 1 to min(n, d): exp of the entropy of the singular values' shares.

    RankMe (Garrido et al., ICML 2023, eq. 1 and 2). Computed in at least float32, on the features as they are.
    """
    values = torch.linalg.svdvals(wide(features))
    total = values.sum()
    return float(entropy(values / total).exp()) if total > 0 else 0.0


@torch.no_grad()
def feature_std(features: Float[Tensor, "n d"]) -> float:
    """How much features differ between pictures: 1 is evenly spread over all directions, 0 is collapse.

    sqrt(d) times the mean over channels of the standard deviation over pictures of unit-length features (SimSiam, 4.1).
    """
    unit = F.normalize(wide(features), dim=-1)
    return float(unit.std(0, unbiased=False).mean()) * math.sqrt(features.shape[1])


@torch.no_grad()
def knn_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "q d"],
    query_labels: Int[Tensor, " q"],
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of queries whose k nearest training pictures elect their label: `neighbours.knn_predict`.

    Pictures without a label (-1) neither vote nor ask; k is at most the number that can vote. NaN when none can.
    """
    voters, asking = train_labels >= 0, query_labels >= 0
    if not voters.any() or not asking.any():
        return math.nan
    votes, truth = train_labels[voters], query_labels[asking]
    x, num_classes = train[voters], int(votes.max()) + 1
    predicted = knn_predict(x, votes, queries[asking], k=k, temperature=temperature, num_classes=num_classes)
    return float((predicted == truth).double().mean())


# --- reconstruction ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def position_constant_loss(
    target: Float[Tensor, "b h d"],
    ids_mask: Int[Tensor, "b h"],
    num_patches: int,
    *,
    axis: CosAxis = "feature",
    folds: int = 1,
) -> float:
    """The cosine loss of an answer that knows the position of a token and nothing of the picture.

    The answer is the mean of the *other* pictures' unit-length targets at that position, the best constant there is;
    leaving the picture out keeps small batches from flattering it. A position hidden in one picture only has no answer
    (cosine 0). 1 minus this loss is the share of the target that a constant per position explains: near 1, the target
    says where a token is and not what it shows (docs/methods/sdae.md).
    """
    unit = F.normalize(wide(target), dim=-1)
    return float(cosine_loss(_mean_of_others(unit, ids_mask, num_patches), unit, axis=axis, folds=folds))


@torch.no_grad()
def position_constant_mse(target: Float[Tensor, "b h p"], ids_mask: Int[Tensor, "b h"], num_patches: int) -> float:
    """The squared error of the other pictures' mean at each position: what `position_constant_loss` is, for pixels."""
    t = wide(target)
    return float(F.mse_loss(_mean_of_others(t, ids_mask, num_patches), t))


def _mean_of_others(
    x: Float[Tensor, "b h d"], ids_mask: Int[Tensor, "b h"], num_patches: int
) -> Float[Tensor, "b h d"]:
    """For each token the mean of the tokens at its position in other pictures; zeros where there is none."""
    b, h, d = x.shape
    ids, rows = ids_mask.reshape(-1), x.reshape(b * h, d)
    sums = rows.new_zeros(num_patches, d).index_add_(0, ids, rows)
    others = torch.bincount(ids, minlength=num_patches)[ids] - 1
    means = (sums[ids] - rows) / others.clamp(min=1)[:, None]
    return torch.where(others[:, None] > 0, means, torch.zeros_like(means)).reshape(b, h, d)


# --- labels -----------------------------------------------------------------------------------------------------------


class Usage(NamedTuple):
    """How evenly prototypes are used."""

    entropy: float
    """Of the mean assignment, over ln m: 1 is even, 0 is one prototype for all. Sinkhorn itself pushes it to 1."""
    num_used: int
    """Prototypes that are the first choice of at least one row."""


@torch.no_grad()
def prototype_usage(labels: Float[Tensor, "rows m"]) -> Usage:
    """How evenly soft assignments, each row summing to 1, use the m > 1 prototypes."""
    share = float(entropy(wide(labels).mean(0))) / math.log(labels.shape[1])
    return Usage(share, int(torch.unique(labels.argmax(1)).numel()))


@torch.no_grad()
def distinct_matches(nearest: Int[Tensor, "b h k"], num_tokens: int) -> float:
    """Mean share of a picture's `num_tokens` teacher tokens that at least one student token is matched with.

    Random features give about 1 - 1/e = 0.63 when there are as many of either; near 0 a few hubs take everything.
    """
    b = nearest.shape[0]
    taken = torch.zeros(b, num_tokens, device=nearest.device).scatter_(1, nearest.reshape(b, -1), 1.0)
    return float(taken.mean())


# --- teachers ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def teacher_distance(method: Method) -> dict[str, float]:
    """For each teacher |its encoder - the student's| / |the student's|, over the weights that learn."""
    ours = _learned(method.student, method.student)
    return {
        name: float((_learned(teacher.encoder, method.student) - ours).norm() / ours.norm())
        for name, teacher in method.teachers.items()
    }


def _learned(net: nn.Module, student: nn.Module) -> Float[Tensor, " parameters"]:
    pairs = zip(net.parameters(), student.parameters(), strict=True)
    return torch.cat([mine.detach().reshape(-1).float() for mine, theirs in pairs if theirs.requires_grad])


# --- all that applies -------------------------------------------------------------------------------------------------


@torch.no_grad()
def monitor(method: Method, output: Output, num_patches: int) -> dict[str, float]:
    """The monitors that apply to a method, by the names they have in monitors.jsonl.

    `reconstruction_loss`, `position_constant_loss`, `position_constant_share` (of the target, 0 to 1) · `class_loss`,
    `class_kl` (loss minus the entropy of its target), `class_gain` (ln m minus loss, nats better than a uniform guess),
    `class_prototype_entropy`, `class_prototypes_used`, and as many of `patch` · `distinct_matches` ·
    `<teacher>_distance` · `sure_share`,
    `sure_accuracy` of the labels that it guesses, and `guess_entropy`, how evenly over the classes.
    """
    parts = {name: float(value.detach()) for name, value in output.parts.items()}
    values: dict[str, float] = {}
    if "reconstruction" in parts and "target" in output.seen:
        values |= {"reconstruction_loss": parts["reconstruction"], **_constant(method, output.seen, num_patches)}
    for kind, target in _label_targets(output.seen).items():
        values |= _labels(kind, parts.get(kind), target, output.seen[f"{kind}_labels"])
    if "nearest" in output.seen and "patch_labels" in output.seen:
        values["distinct_matches"] = distinct_matches(output.seen["nearest"], output.seen["patch_labels"].shape[1])
    if "guesses" in output.seen:
        values |= _guessed(output.seen)
    return values | {f"{name}_distance": value for name, value in teacher_distance(method).items()}


def _constant(method: Method, seen: dict[str, Tensor], num_patches: int) -> dict[str, float]:
    """What a constant per position reaches: of tokens in cosines, of pixels in squared error over the variance."""
    target, ids = seen["target"], seen["ids_mask"]
    if "pixels" in seen:
        loss = position_constant_mse(target, ids, num_patches)
        share = 1 - loss / max(1e-12, float(wide(target).var(unbiased=False)))
    else:
        settings: Any = method.masked.settings
        axis: CosAxis = getattr(settings, "cos_axis", "feature")
        folds = getattr(settings, "folds", 1)
        loss = position_constant_loss(target, ids, num_patches, axis=axis, folds=folds)
        share = 1 - loss
    return {"position_constant_loss": loss, "position_constant_share": max(0.0, share)}


def _label_targets(seen: dict[str, Tensor]) -> dict[str, Float[Tensor, "b t m"]]:
    """The soft labels that the student's class token and hidden tokens were given (PseudoMAE eq. 4 and 3)."""
    targets = {}
    if "class_labels" in seen:
        targets["class"] = seen["class_labels"].mean(1, keepdim=True)
    if "patch_labels" in seen and "nearest" in seen:
        labels, nearest = seen["patch_labels"], seen["nearest"]
        rows = torch.arange(len(labels), device=labels.device)[:, None]
        targets["patch"] = torch.stack([labels[rows, ids] for ids in nearest.unbind(-1)]).mean(0)
    return targets


def _labels(
    kind: str, loss: float | None, target: Float[Tensor, "b t m"], labels: Float[Tensor, "b k m"]
) -> dict[str, float]:
    usage = prototype_usage(labels.flatten(0, 1))
    values = {f"{kind}_prototype_entropy": usage.entropy, f"{kind}_prototypes_used": float(usage.num_used)}
    if loss is not None:
        floor = float(entropy(wide(target)).mean())
        values |= {f"{kind}_loss": loss, f"{kind}_kl": loss - floor, f"{kind}_gain": math.log(labels.shape[-1]) - loss}
    return values


@torch.no_grad()
def classified(logits: Float[Tensor, "b c"], labels: Int[Tensor, " b"]) -> dict[str, float]:
    """`cross_entropy` (in nats) and `classifier_accuracy` of a classifier on labelled pictures."""
    loss = F.cross_entropy(wide(logits), labels)
    return {"cross_entropy": float(loss), "classifier_accuracy": float((logits.argmax(1) == labels).double().mean())}


@torch.no_grad()
def tagged(logits: Float[Tensor, "b c"], tags: Int[Tensor, "b most"]) -> dict[str, float]:
    """As `classified`, of pictures with a tag: right is whose most probable class is one of its tags."""
    has = (tags >= 0).any(1)
    right = (tags[has] == logits[has].argmax(1)[:, None]).any(1)
    loss = tag_cross_entropy(logits[has], tags[has])
    return {"cross_entropy": float(loss), "classifier_accuracy": float(right.double().mean())} if has.any() else {}


def _guessed(seen: dict[str, Tensor]) -> dict[str, float]:
    """The share of guesses that count, of those with a known label the share that is right, and the entropy of all guesses.

    The entropy is over ln of the classes: 1 is as many of each, 0 is one class for all.
    """
    guesses, sure, labels, num_classes = seen["guesses"], seen["sure"], seen["guessed_labels"], seen["logits"].shape[1]
    shares = torch.bincount(guesses, minlength=num_classes).double() / len(guesses)
    values = {"sure_share": float(sure.float().mean()), "guess_entropy": float(entropy(shares)) / math.log(num_classes)}
    known = sure & (labels >= 0)
    if known.any():
        values["sure_accuracy"] = float((guesses == labels)[known].float().mean())
    return values
