"""Fine-tuning: the whole encoder learns to classify, as MAE and SdAE do it (He et al., CVPR 2022, appendix A.1, Table 9).

The layer-wise decay of the learning rate is the optimizer's (`optim.layer_decay`), the augmentation the strong view's.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms import v2

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock, CosineMomentum
from tutelage.config import NonNegative, Ratio, Share
from tutelage.encoder import mean_pooled, with_head
from tutelage.errors import SettingsError
from tutelage.heads import Pool, check_classes_shown, classify, linear_head
from tutelage.losses import cross_entropy, soft_cross_entropy
from tutelage.method import Method, MethodSettings, Output
from tutelage.mixing import smoothed
from tutelage.teacher import EMATeacher, TeacherSettings


class FinetuneSettings(MethodSettings):
    """What the classifier reads, how pictures are mixed, and who is handed on."""

    name: Literal["finetune"] = "finetune"
    pool: Pool = "avg"
    """The classifier reads the mean of the patch tokens, normed after it (MAE's `global_pool`), or the normed class token."""
    view: Literal["strong", "weak", "simple", "complex"] = "strong"
    """How training pictures are changed; strong is MAE's: crop, flip, RandAugment and erasing; complex has colours."""
    mixup: NonNegative = 0.8
    """Alpha of mixup's Beta distribution; 0 is without."""
    cutmix: NonNegative = 1.0
    """Alpha of cutmix's Beta distribution; 0 is without. Where there are both, a coin decides for each micro-batch."""
    mix_share: Share = 1.0
    """Probability that a micro-batch is mixed at all."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of each label that is spread evenly over all classes."""
    ema: Ratio | None = None
    """Keep an average of encoder and classifier, of which this much stays at each step (DeiT's 0.9999 or 0.99996, over about
    1 / (1 - ema) steps); none by default, as MAE's."""
    hands_on: Literal["student", "teacher"] = "student"
    """Whose encoder and classifier the run is judged by and exports: those that learn, or with `ema` their average."""

    @property
    def streams(self) -> dict[str, Stream]:
        """One view of the pictures that have a label."""
        return {"train": Stream(views=(self.view,), labels="known")}

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse to hand on an average that is not kept."""
        if self.hands_on == "teacher" and self.ema is None:
            raise SettingsError(
                "C-24",
                "method.hands_on is 'teacher', but no average is kept.",
                todo="Keep one with --method.ema 0.9999, or hand on the student.",
            )

    def notes(self, num_patches: int, pictures: int) -> list[str]:
        """Whether an average is kept that nobody is given."""
        if self.ema is None or self.hands_on == "teacher":
            return []
        return ["note    the average is kept beside; --method.hands-on teacher judges the run by it and exports it"]

    def check_classes(self, data: str, shown: int) -> None:
        """Refuse training pictures without labels, or all of one class."""
        check_classes_shown(
            data,
            shown,
            "Fine-tuning learns to tell classes apart.",
            "Give class folders, or a CSV file with the columns path and label.",
        )

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "Finetune":
        """A classifier of `num_classes` classes around a pretrained encoder, whose positions learn too."""
        return Finetune(self, vit, num_classes)


class Finetune(Method):
    """An encoder and a classifier that learn together."""

    def __init__(self, settings: FinetuneSettings, vit: VisionTransformer, num_classes: int) -> None:
        super().__init__()
        s = self.settings = settings
        self.student = mean_pooled(vit) if s.pool == "avg" else vit
        if vit.pos_embed is not None:
            vit.pos_embed.requires_grad_(True)
        self.head = linear_head(vit.embed_dim, num_classes, std=2e-5)
        kinds = {v2.MixUp: s.mixup, v2.CutMix: s.cutmix}
        with torch.device("cpu"):  # they draw there, wherever the method is built
            self._mixes = [mix(alpha=alpha, num_classes=num_classes) for mix, alpha in kinds.items() if alpha > 0]
        if s.ema is not None:
            average = TeacherSettings(every="step", momentum=CosineMomentum(start=s.ema, end=s.ema))
            self.teacher = EMATeacher(average, encoder=self.student, head=self.head)

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """Cross-entropy with smoothed labels, in training mixed with the pictures in pairs."""
        (x,), labels, s = batch["train"].views, batch["train"].labels, self.settings
        if self.training and self._mixes and float(torch.rand(())) < s.mix_share:
            x, mixed = self._mixes[int(torch.randint(len(self._mixes), ()))](x, labels)
            logits = classify(self.student, self.head, x, s.pool)
            loss = soft_cross_entropy(logits, smoothed(mixed, s.label_smoothing), 1.0)
        else:
            loss = cross_entropy(classify(self.student, self.head, x, s.pool), labels, s.label_smoothing)
        return Output(loss, {"cross_entropy": loss}, {})

    def after_step(self, clock: Clock) -> None:
        """The average follows, where there is one."""
        if self.settings.ema is not None:
            self.teacher.update(clock, encoder=self.student, head=self.head)

    @property
    def encoder(self) -> VisionTransformer:
        """The student, unless the settings name the teacher."""
        return self.student if self.settings.hands_on == "student" else self.teacher.encoder

    def classifier(self) -> VisionTransformer:
        """The encoder that is handed on, with its head."""
        return with_head(self.encoder, self._head, self.settings.pool)

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """By the classifier that is handed on."""
        return classify(self.encoder, self._head, x, self.settings.pool)

    @property
    def _head(self) -> nn.Linear:
        head = self.head if self.settings.hands_on == "student" else self.teacher["head"]
        assert isinstance(head, nn.Linear)
        return head
