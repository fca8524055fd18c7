"""SdAE for small pictures: 32 px, patch 4, a ViT of 128 x 6; minutes to an hour on two CPU cores.

    tutelage pretrain sdae-quickstart --data fashion-mnist --epochs 2

16 of 64 patches are visible. Smaller pictures are resized. The teacher moves every
300th of the run, as often as in the paper's 300 epochs, and its tokens are standardised per channel over each picture:
standardised per token, as published, the target of a small run is nearly a constant per position (docs/methods/sdae.md).
Source: ours, for a first try; no paper has this setting.
Expected: above the untrained encoder in kNN and linear accuracy; docs/results.md has what was measured here.
"""

from tutelage.clock import CosineMomentum
from tutelage.decoder import DecoderSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.sdae import SdAESettings
from tutelage.teacher import TeacherSettings

RECIPE = RunSettings[SdAESettings](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4),
    method=SdAESettings(
        target_norm="picture",
        decoder=DecoderSettings(width=96, depth=2, heads=3),
        reconstruction_teacher=TeacherSettings(every="run/300", momentum=CosineMomentum(start=0.96, end=0.99)),
    ),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1),
)
