"""RC-MAE for small pictures: 32 px, patch 4, a ViT of 128 x 6; minutes to an hour on two CPU cores.

    tutelage pretrain rc-mae-quickstart --data fashion-mnist --epochs 2

16 of 64 patches are visible to student and teacher. Smaller pictures are resized. The run hands on the teacher's encoder.
Source: ours, for a first try; no paper has this setting.
Expected: above the untrained encoder in kNN and linear accuracy; docs/results.md has what was measured here.
"""

from tutelage.decoder import DecoderSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.rc_mae import RCMAESettings

RECIPE = RunSettings[RCMAESettings](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4),
    method=RCMAESettings(decoder=DecoderSettings(width=96, depth=2, heads=3)),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1),
)
