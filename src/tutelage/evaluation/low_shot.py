"""Few labels: logistic regression on frozen features of k pictures of each class, for several k and several draws."""

from collections import Counter
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from tutelage.config import Count, NonNegativeInt, Positive, Settings
from tutelage.data.index import Pictures
from tutelage.data.order import mix, permute
from tutelage.errors import DataError
from tutelage.evaluation.features import Say
from tutelage.evaluation.linear import standardised
from tutelage.evaluation.parts import Labelled, Split
from tutelage.evaluation.result import Score


class LowShotSettings(Settings):
    """How many labels, how often drawn, and which regularisations are tried."""

    shots: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 5, 10)
    """Labelled pictures of each class; the largest number is the headline."""
    draws: int = Field(5, ge=2)
    """Times that these pictures are drawn anew; accuracies are means over the draws."""
    c: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """Inverse strengths of the L2 penalty. The best on all held-out pictures counts: one for each k and token."""
    max_iter: Count = 1000
    """Of L-BFGS."""
    seed: NonNegativeInt = 0
    """Of the draws."""


def refuse_small_classes(pictures: Pictures, settings: LowShotSettings) -> None:
    """Raise DataError D-16 where a class has fewer training pictures than the largest number of shots."""
    counts, most = Counter(pictures.labels.tolist()), max(settings.shots)
    few = {name: counts[k] for k, name in enumerate(pictures.classes) if counts[k] < most}
    if few:
        some = ", ".join(f"{name} ({count})" for name, count in list(few.items())[:5])
        raise DataError(
            "D-16",
            f"{len(few)} of {len(pictures.classes)} classes have fewer than {most} training pictures: {some}.",
            f"{most} pictures of each class cannot be drawn.",
            f"Label more of them, or ask for fewer with --low-shot.shots (at most {min(few.values())})."
            if min(few.values())
            else "Label some of each class, or leave those classes out.",
        )


def draw(labels: Int[Tensor, " n"], shots: int, seed: int, number: int) -> Int[Tensor, "classes {shots}"]:
    """Places of `shots` pictures of each class, in the order of the classes; fewer shots are its first columns.

    A function of (seed, number of the draw, place) alone. Every class must have `shots` pictures.
    """
    order = torch.from_numpy(permute(np.arange(len(labels)), len(labels), mix(seed, "low-shot"), number))
    by_class = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount()
    starts = sizes.cumsum(0) - sizes
    return by_class[starts[:, None] + torch.arange(shots)]


def score_low_shot(split: Split, num_classes: int, settings: LowShotSettings, say: Say | None = None) -> Score:
    """Mean accuracies over the draws by k, each with the C that has the best mean on held-out pictures.

    Features are standardised by mean and deviation of all labelled training features; of equally good C the smallest
    (the strongest penalty) counts. Deviations over draws are those of a sample (divisor draws - 1). Every class of
    `num_classes` must have as many training pictures as the largest k.
    """
    train, held_out, test = _standardised(split)
    draws = [draw(train.y, max(settings.shots), settings.seed, number) for number in range(settings.draws)]
    details: dict[str, Any] = {"k": max(settings.shots), "test_by_k": {}, "std_by_k": {}, "c_by_k": {}}
    on_held_out = 0.0
    for k in sorted(set(settings.shots)):
        if say:
            say(f"low-shot  {k} of each of {num_classes} classes, {len(draws)} draws")
        chosen = [Labelled(train.x[rows], train.y[rows]) for rows in (places[:, :k].flatten() for places in draws)]
        on_held_out, c, models = _best(chosen, held_out, settings)
        accuracies = [_accuracy(model, test) for model in models]
        details["test_by_k"][str(k)] = float(np.mean(accuracies))
        details["std_by_k"][str(k)] = float(np.std(accuracies, ddof=1))
        details["c_by_k"][str(k)] = c
    return Score(on_held_out, details["test_by_k"][str(max(settings.shots))], details)


def _best(chosen: list[Labelled], held_out: Labelled, settings: LowShotSettings) -> tuple[float, float, list[Any]]:
    """Mean accuracy on held-out pictures, C, and models, of the C for which that mean is largest."""
    found = []
    for c in sorted(set(settings.c)):
        models = [_fitted(labelled, c, settings.max_iter) for labelled in chosen]
        found.append((float(np.mean([_accuracy(model, held_out) for model in models])), c, models))
    return max(found, key=lambda one: one[0])


def _fitted(labelled: Labelled, c: float, max_iter: int) -> Any:
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from threadpoolctl import threadpool_limits

    # On so few rows a second thread gains nothing, and beside other work the threads wait for each other: 50 times as long.
    with threadpool_limits(limits=1):
        return LogisticRegression(C=c, max_iter=max_iter).fit(labelled.x.numpy(), labelled.y.numpy())


def _accuracy(model: Any, labelled: Labelled) -> float:
    return float((model.predict(labelled.x.numpy()) == labelled.y.numpy()).mean())


def _standardised(split: Split) -> Split:
    """The split in float64, standardised by its training part."""
    x, mean, std = standardised(split.train.x.double())
    others = [Labelled((part.x.double() - mean) / std, part.y) for part in split[1:]]
    return Split(Labelled(x, split.train.y), *others)
