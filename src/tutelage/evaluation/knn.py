"""kNN as a protocol: how well an encoder's nearest training pictures elect the class of a picture."""

from typing import Annotated

from pydantic import Field

from tutelage.config import Count, Positive, Settings
from tutelage.evaluation.parts import Split
from tutelage.evaluation.result import Score
from tutelage.neighbours import knn_accuracies


class KNNSettings(Settings):
    """The vote, with the published values."""

    k: Count = 20
    """Neighbours that vote for the headline."""
    also: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 20, 100, 200)
    """Numbers of neighbours that are reported beside it."""
    temperature: Positive = 0.07
    """A vote weighs exp(cosine / temperature)."""


def score_knn(split: Split, num_classes: int, settings: KNNSettings) -> Score:
    """Accuracies by k; no k is more than the number of training pictures."""
    k, *also = (min(k, len(split.train.y)) for k in (settings.k, *settings.also))
    on_held_out, on_test = (
        knn_accuracies(
            *split.train, *part, ks=tuple(sorted({k, *also})), temperature=settings.temperature, num_classes=num_classes
        )
        for part in (split.held_out, split.test)
    )
    return Score(on_held_out[k], on_test[k], {"k": k, "test_by_k": {str(k): on_test[k] for k in on_test}})
