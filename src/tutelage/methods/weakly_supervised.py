"""Weakly supervised pretraining from hashtags (Mahajan et al., ECCV 2018; Singh et al., CVPR 2022), alone or after masked
pretraining (Singh et al., ICCV 2023, arXiv:2303.13496: MAE pre-pretraining, which is this method begun from an encoder).

A linear classifier over all classes of tags learns, by softmax, the uniform distribution over those that a picture has. Tags
are wrong or missing as often as people are careless; but there are many.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tutelage.batch import Annotation, Batch, Stream
from tutelage.clock import Clock
from tutelage.encoder import with_head
from tutelage.errors import DataError
from tutelage.heads import Pool, classify, linear_head
from tutelage.losses import tag_cross_entropy
from tutelage.method import Method, MethodSettings, Output


class WeaklySupervisedSettings(MethodSettings):
    """What the classifier reads, and how often rare tags are seen."""

    name: Literal["weakly_supervised"] = "weakly_supervised"
    pool: Pool = "token"
    """The classifier reads the class token (as published), or the mean of the patch tokens."""
    oversample: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Pictures with a tag that a share f of the pictures shows, less than this, come sqrt(oversample / f) times in an epoch;
    0: once."""

    @property
    def streams(self) -> dict[str, Stream]:
        """One view of the pictures that have a tag."""
        return {"train": Stream(views=("simple",), labels="tagged", oversample=self.oversample)}

    @property
    def annotation(self) -> Annotation:
        """Tags."""
        return "tags"

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Any number of patches and pictures will do."""

    def check_classes(self, data: str, shown: int) -> None:
        """Refuse pictures whose tags are all one class."""
        if shown < 2:
            raise DataError(
                "D-17", f"the tags of the training pictures of {data} are all of one class.",
                "The method weakly_supervised learns to tell tags apart.",
                "Give more different tags; words that are no nouns of WordNet do not count.",
            )  # fmt: skip

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "WeaklySupervised":
        """A classifier of `num_classes` classes of tags around a student."""
        return WeaklySupervised(self, vit, num_classes)


class WeaklySupervised(Method):
    """An encoder that learns from tags."""

    def __init__(self, settings: WeaklySupervisedSettings, vit: VisionTransformer, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.student = vit
        self.head = linear_head(vit.embed_dim, num_classes)

    def classifier(self) -> VisionTransformer:
        """The student with its head."""
        return with_head(self.student, self.head, self.settings.pool)

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Of the classes of tags, by the student's classifier."""
        return classify(self.student, self.head, x, self.settings.pool)

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """Mean cross-entropy with the uniform distribution over each picture's tags."""
        (x,), tags = batch["train"].views, batch["train"].tags
        assert tags is not None

        loss = tag_cross_entropy(self.logits(x), tags)
        return Output(loss, {"cross_entropy": loss}, {})
