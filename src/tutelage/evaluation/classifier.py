"""The classifier that a run trained, asked about labelled pictures: of its classes, or of some of them."""

import time

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.classifiers import Classifier, load_any_classifier
from tutelage.data.index import Data, Pictures, open_data
from tutelage.errors import DataError, listed
from tutelage.evaluation.features import Say, logits_of
from tutelage.evaluation.linear import share
from tutelage.evaluation.parts import Parts, asked, holdout_of, labelled_parts, seen_before
from tutelage.evaluation.result import Evaluation, Row, Score, remember

Labels = Int[Tensor, " n"]
VERSION = 1
"""Goes up when the protocol's numbers change."""


def evaluate_classifier(
    where: str,
    data: str,
    *,
    labels: str | None = None,
    all_pictures: bool = False,
    device: torch.device | str | None = None,
    workers: int = 0,
    say: Say | None = None,
) -> Evaluation:
    """How many pictures of `data` the classifier of a run names right, of all and as the mean over classes.

    Nothing is trained and nothing is chosen: its test accuracy is the result. Where `data` has only some of its classes (as
    ImageNet-A and ImageNet-R have), it chooses among those. `all_pictures` tests on every labelled picture, not on the test
    part: for sets that the run did not see. Pictures that the run trained on are not called held out. Raises
    CheckpointError K-07 where there is no classifier, DataError D-26 where a class of `data` is none of its own.
    """
    start = time.perf_counter()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    classifier, opened = load_any_classifier(where), open_data(data, labels=labels, holdout=holdout_of(where))
    parts, notes = _every(opened) if all_pictures else labelled_parts(opened, choosing=False)
    notes += seen_before(where, opened, every=all_pictures)
    columns, restricted = columns_of(classifier, where, parts.test, data)
    classifier.vit.to(device)

    def asked_of(pictures: Pictures) -> tuple[Labels, Labels]:
        said = list(logits_of(classifier, pictures, device=device, workers=workers, say=say))
        predicted, known = zip(*((logits[:, columns].argmax(1), batch.labels) for batch, logits in said), strict=True)
        return torch.cat(predicted), torch.cat(known)

    held_out = share(*asked_of(parts.held_out)) if len(parts.held_out) else None
    predicted, known = asked_of(parts.test)
    score = Score(held_out, share(predicted, known), {"mean_per_class": mean_per_class(predicted, known)})
    found = Evaluation(
        protocol=f"classifier/{VERSION}",
        settings={"all_pictures": True} if all_pictures else {},
        teacher=None,
        rows=(Row("classifier", {"head": score}),),
        notes=(*notes, *restricted),
        seconds=round(time.perf_counter() - start, 3),
        **asked(where, classifier, opened, parts),
    )
    remember(where, [found])
    return found


def mean_per_class(predicted: Labels, known: Labels) -> float:
    """The mean over the classes in `known` of the share of each that is named right, as Flowers' and Pets' papers report."""
    from sklearn.metrics import recall_score  # takes a second to import

    return float(recall_score(known.numpy(), predicted.numpy(), labels=known.unique().numpy(), average="macro"))


def columns_of(
    classifier: Classifier, where: str, pictures: Pictures, data: str
) -> tuple[Int[Tensor, " classes"], list[str]]:
    """Which logit each class of the pictures has, and a note where they are fewer. Raises DataError D-26."""
    number = {name: k for k, name in enumerate(classifier.classes)}
    if unknown := [name for name in pictures.classes if name not in number]:
        raise DataError(
            "D-26",
            f"{where} tells {len(number)} classes apart, which are not the {len(pictures.classes)} of {data}: "
            f"{len(unknown)} are none of them, as {listed(unknown[:3])}.",
            todo="Evaluate it on a set with its classes or some of them, or its encoder by knn or linear.",
        )
    columns = torch.tensor([number[name] for name in pictures.classes])
    fewer = f"{len(columns)} of the classifier's {len(number)} classes are asked for, and it chooses among these"
    return columns, [fewer] if len(columns) < len(number) else []


def _every(data: Data) -> tuple[Parts, list[str]]:
    """All labelled pictures as the test part. Raises DataError D-10."""
    pictures = data.everything.labelled()
    if not len(pictures):
        raise DataError(
            "D-10", f"{data.name} has no labels.", "Accuracy cannot be measured without them.", "Give class folders."
        )
    none = pictures.subset(np.zeros(0, dtype=np.int64))
    return Parts(none, none, pictures), [f"all {len(pictures):,} labelled pictures are asked for"]
