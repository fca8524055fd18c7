"""RC-MAE (Lee et al., ICLR 2023, arXiv:2210.02077): a masked autoencoder whose own past is a second target.

The teacher is a whole masked autoencoder, encoder and decoder, that follows the student. It sees as little of the picture
as the student does, and what it rebuilds is what the student is to rebuild too, beside the pixels themselves.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock, CosineMomentum
from tutelage.config import NonNegative, Ratio
from tutelage.decoder import Decoder, DecoderSettings
from tutelage.encoder import Tokens, encode, grid_of, patch_of
from tutelage.losses import masked_mse
from tutelage.masking import PatchMask, check_mask, random_mask
from tutelage.method import Method, MethodSettings, Output, seen, total
from tutelage.targets import patchify, standardise
from tutelage.teacher import EMATeacher, TeacherSettings


class RCMAESettings(MethodSettings):
    """RC-MAE's settings, with its published defaults (docs/methods/rc_mae.md)."""

    name: Literal["rc_mae"] = "rc_mae"
    mask_ratio: Ratio = 0.75
    """Share of the patches hidden from the student, and from the teacher."""
    norm_pix: bool = True
    """Standardise the pixels of each target patch."""
    decoder: DecoderSettings = DecoderSettings()
    consistency_weight: NonNegative = 1.0
    """Weight of the consistency loss: the gamma of the published code; 0 is MAE."""
    consistency_teacher: TeacherSettings = TeacherSettings(every="step", momentum=CosineMomentum(start=0.996, end=1.0))
    teacher_mask: Literal["same", "different"] = "same"
    """The teacher sees the patches that the student sees, or those of another mask (Table 1: RC-MAE-S, RC-MAE-D)."""
    hands_on: Literal["consistency_teacher", "student"] = "consistency_teacher"
    """Whose encoder the run is judged by and exports: the teacher's, as published, or the student's."""

    @property
    def streams(self) -> dict[str, Stream]:
        """One view, and a mask; another for the teacher where it has its own."""
        return {"train": Stream(views=("simple",), masks=1 if self.teacher_mask == "same" else 2)}

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse a mask that leaves nothing to see or to rebuild."""
        check_mask(math.prod(grid), self.mask_ratio)
        self.decoder.check()

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "RCMAE":
        """RC-MAE around a student."""
        return RCMAE(self, vit)


class RCMAE(Method):
    """Reconstruction-consistent masked autoencoder."""

    def __init__(self, settings: RCMAESettings, vit: VisionTransformer) -> None:
        super().__init__()
        self.settings = settings
        self.student = vit
        (ph, pw), channels = patch_of(vit), vit.patch_embed.proj.in_channels
        self.decoder = Decoder(settings.decoder, width_in=vit.embed_dim, out=ph * pw * channels, grid=grid_of(vit))
        self.consistency_teacher = EMATeacher(settings.consistency_teacher, encoder=vit, decoder=self.decoder)

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """L_r + gamma L_c: squared errors of the hidden patches to the pixels, and to what the teacher rebuilds."""
        s = self.settings
        (x,), keys = batch["train"].views, batch["train"].keys
        mask = random_mask(keys[0], s.mask_ratio)
        theirs = mask if s.teacher_mask == "same" else random_mask(keys[1], s.mask_ratio)

        y = self.decoder(encode(self.student, x, mask.ids_keep), mask).patches  # [b, n, p]
        t = patchify(x, patch_of(self.student))
        t = mask.hidden(standardise(t) if s.norm_pix else t)
        c = mask.hidden(self._rebuilt(x, theirs))

        parts = {"reconstruction": masked_mse(mask.hidden(y), t), "consistency": masked_mse(mask.hidden(y), c)}
        loss = total(parts, {"reconstruction": 1.0, "consistency": s.consistency_weight})
        return Output(loss, parts, seen(ids_mask=mask.ids_mask, pixels=y, target=t, teacher_pixels=c))

    def after_step(self, clock: Clock) -> None:
        """The teacher follows encoder and decoder after every step."""
        self.consistency_teacher.update(clock, encoder=self.student, decoder=self.decoder)

    @property
    def encoder(self) -> VisionTransformer:
        """The teacher's, which RC-MAE is fine-tuned from, unless the settings say otherwise."""
        return self.student if self.settings.hands_on == "student" else self.consistency_teacher.encoder

    @torch.no_grad()
    def _rebuilt(self, x: Float[Tensor, "b c h w"], mask: PatchMask) -> Float[Tensor, "b n p"]:
        """Every patch as the teacher predicts it from those that `mask` leaves visible."""
        teacher = self.consistency_teacher
        tokens: Tokens = teacher["decoder"](encode(teacher.encoder, x, mask.ids_keep), mask)
        return tokens.patches
