"""SdAE, ViT-B/16, as its published code computes it, where that differs from the paper.

    torchrun --nproc-per-node 8 -m tutelage pretrain sdae-vitb16-code --data IMAGENET

Source: the paper's section 4 and the command of its README as PseudoMAE's appendix A repeats it: AdamW (0.9, 0.95), base lr
2.666e-4 per 256 (8e-4 at 768), warm-up 60 epochs, weight decay 0.05, drop path 0.25, mask 0.75, 3 folds, teacher once an
epoch with momentum 0.96 to 0.99; decoder 512 x 8 x 16.
Differs from sdae-vitb16: cosine over the tokens of a fold, a teacher that begins from random weights of its own with
random positions, weight decay 0.04 (docs/methods/sdae.md: A1, A4, A23).
Expected: as sdae-vitb16; which of the two made the published numbers is not known.
Not verified here.
"""

from tutelage.clock import CosineMomentum
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.sdae import SdAESettings
from tutelage.teacher import TeacherSettings

RECIPE = RunSettings[SdAESettings](
    epochs=300,
    batch_size=768,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", drop_path=0.25),
    method=SdAESettings(
        cos_axis="token",
        reconstruction_teacher=TeacherSettings(
            every="epoch", momentum=CosineMomentum(start=0.96, end=0.99), init="independent", positions="ema"
        ),
    ),
    optim=OptimSettings(base_lr=2.666e-4, warmup_epochs=60, weight_decay=0.04),
)
