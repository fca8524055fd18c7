"""Segmentation for small pictures: on from any encoder, minutes on two CPU cores.

    tutelage segment RUN --data FOLDER

FOLDER has images/ and masks/ (tutelage segment --help). UPerNet of width 48 on the encoder's own size; scales of 80 to 160 %,
layer decay 0.9, drop path 0.1, a straight line down to 0. From scratch: tutelage pretrain segment-quickstart.
Source: ours, for a first try; no paper has this setting.
Expected: docs/results.md has what was measured here.
"""

from tutelage.data.joint import SegmentView
from tutelage.data.views import ViewsSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.segmentation import SegmentationSettings

RECIPE = RunSettings[SegmentationSettings](
    epochs=10,
    batch_size=32,
    backbone=BackboneSettings(
        name="vit_tiny_patch16_224", image_size=128, patch_size=16, width=128, depth=6, heads=4, drop_path=0.1
    ),
    method=SegmentationSettings(channels=48, auxiliary_channels=48),
    optim=OptimSettings(
        base_lr=8e-3, betas=(0.9, 0.999), decay_tokens=False, layer_decay=0.9, warmup_epochs=1, schedule="poly"
    ),
    views=ViewsSettings(segment=SegmentView(scale=(0.8, 1.6))),
)
