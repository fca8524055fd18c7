"""SdAE (Chen et al., ECCV 2022, arXiv:2208.00449): rebuild the tokens that an EMA teacher sees in the hidden patches."""

import math
from typing import Literal

import torch
from timm.models.vision_transformer import VisionTransformer

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock, CosineMomentum
from tutelage.config import Count, Ratio
from tutelage.decoder import Decoder, DecoderSettings
from tutelage.encoder import encode, grid_of
from tutelage.losses import CosAxis, cosine_loss
from tutelage.masking import check_folds, check_mask, random_mask
from tutelage.method import Method, MethodSettings, Output, seen
from tutelage.targets import TargetNorm, token_target
from tutelage.teacher import EMATeacher, TeacherSettings


class SdAESettings(MethodSettings):
    """SdAE's settings, with its published defaults (docs/methods/sdae.md)."""

    name: Literal["sdae"] = "sdae"
    mask_ratio: Ratio = 0.75
    """Share of the patches hidden from the student."""
    folds: Count = 3
    """Groups in which the teacher sees the hidden patches; must divide their number."""
    teacher_view: Literal["hidden", "all"] = "hidden"
    """The teacher sees the hidden patches in folds, or the whole picture in one pass."""
    target_norm: TargetNorm = "token"
    """Over what the target tokens are standardised (methods A3)."""
    cos_axis: CosAxis = "feature"
    """Compare tokens over their features, or channels over the tokens of a fold as SdAE's code does (methods A1)."""
    reconstruction_teacher: TeacherSettings = TeacherSettings(
        every="epoch", momentum=CosineMomentum(start=0.96, end=0.99)
    )
    decoder: DecoderSettings = DecoderSettings()

    @property
    def streams(self) -> dict[str, Stream]:
        """One view, one mask."""
        return {"train": Stream(views=("simple",))}

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse masks and folds that do not fit."""
        num_patches = math.prod(grid)
        check_mask(num_patches, self.mask_ratio)
        check_folds(num_patches, self.mask_ratio, self.folds)
        self.decoder.check()

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "SdAE":
        """SdAE around a student."""
        return SdAE(self, vit)


class SdAE(Method):
    """Self-distillated masked autoencoder."""

    def __init__(self, settings: SdAESettings, vit: VisionTransformer) -> None:
        super().__init__()
        self.settings = settings
        self.student = vit
        self.decoder = Decoder(settings.decoder, width_in=vit.embed_dim, out=vit.embed_dim, grid=grid_of(vit))
        self.reconstruction_teacher = EMATeacher(settings.reconstruction_teacher, encoder=vit)

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """1 - mean cosine between predicted and standardised teacher tokens of the hidden patches."""
        s = self.settings
        (x,), (keys,) = batch["train"].views, batch["train"].keys
        mask = random_mask(keys, s.mask_ratio)

        z = encode(self.student, x, mask.ids_keep)
        y = mask.hidden(self.decoder(z, mask).patches)  # [b, h, d]
        with torch.no_grad():
            if s.teacher_view == "hidden":
                t = encode(self.reconstruction_teacher.encoder, x, mask.ids_mask, s.folds).patches
            else:
                t = mask.hidden(encode(self.reconstruction_teacher.encoder, x).patches)
            t = token_target(t, s.target_norm)

        loss = cosine_loss(y, t, axis=s.cos_axis, folds=s.folds)
        return Output(loss, {"reconstruction": loss}, seen(ids_mask=mask.ids_mask, prediction=y, target=t))

    def after_step(self, clock: Clock) -> None:
        """The teacher follows the student's encoder, once an epoch by default."""
        self.reconstruction_teacher.update(clock, encoder=self.student)
