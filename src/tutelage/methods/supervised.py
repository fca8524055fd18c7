"""Supervised training from labels: the control that every method without labels is held against (as DeiT, ICML 2021).

The same encoder, pictures, views, optimiser and run as the other methods, with a linear classifier and no mask.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock
from tutelage.encoder import with_head
from tutelage.heads import Pool, check_classes_shown, classify, linear_head
from tutelage.losses import cross_entropy
from tutelage.method import Method, MethodSettings, Output


class SupervisedSettings(MethodSettings):
    """What the classifier reads, and how sure it is to be."""

    name: Literal["supervised"] = "supervised"
    pool: Pool = "token"
    """The classifier reads the class token, or the mean of the patch tokens."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label spread evenly over all classes; none by default, 0.1 is usual from scratch (DeiT)."""

    @property
    def streams(self) -> dict[str, Stream]:
        """One view of the pictures that have a label."""
        return {"train": Stream(views=("simple",), labels="known")}

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Any number of patches and pictures will do."""

    def check_classes(self, data: str, shown: int) -> None:
        """Refuse training pictures without labels, or all of one class."""
        check_classes_shown(
            data,
            shown,
            "The method supervised learns to tell classes apart.",
            "Give class folders, or a CSV file with the columns path and label; the other methods need no labels.",
        )

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "Supervised":
        """A classifier of `num_classes` classes around a student."""
        return Supervised(self, vit, num_classes)


class Supervised(Method):
    """An encoder that learns from labels."""

    def __init__(self, settings: SupervisedSettings, vit: VisionTransformer, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.student = vit
        self.head = linear_head(vit.embed_dim, num_classes)

    def classifier(self) -> VisionTransformer:
        """The student with its head."""
        return with_head(self.student, self.head, self.settings.pool)

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """By the student's classifier."""
        return classify(self.student, self.head, x, self.settings.pool)

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """Mean cross-entropy of the pictures that have a label."""
        (x,), labels = batch["train"].views, batch["train"].labels

        loss = cross_entropy(self.logits(x), labels, self.settings.label_smoothing)
        return Output(loss, {"cross_entropy": loss}, {})
