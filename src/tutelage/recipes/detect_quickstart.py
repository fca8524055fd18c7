"""Detection with outlines for small pictures: on from any encoder.

    tutelage detect RUN --data FOLDER

FOLDER has images/ and COCO JSON (tutelage detect --help). Mask R-CNN of width 64 on the encoder's own patches, pictures at 80
to 125 % of what fits, layer decay 0.9, drop path 0.1, a straight line down to 0. From scratch: tutelage pretrain
detect-quickstart. A step of 16 pictures takes about a second on two CPU cores.
Source: ours, for a first try; no paper has this setting.
Expected: docs/results.md has what was measured here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.detection import DetectionSettings

RECIPE = RunSettings[DetectionSettings](
    epochs=10,
    batch_size=16,
    backbone=BackboneSettings(
        name="vit_tiny_patch16_224", image_size=128, patch_size=16, width=128, depth=6, heads=4, drop_path=0.1
    ),
    method=DetectionSettings(channels=64, hidden=256, proposals=200, anchor_samples=128, samples=32),
    optim=OptimSettings(
        base_lr=1.6e-2, betas=(0.9, 0.999), decay_tokens=False, layer_decay=0.9, warmup_epochs=1, schedule="poly"
    ),
)
