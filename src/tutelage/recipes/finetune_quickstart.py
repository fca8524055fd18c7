"""Fine-tuning for small pictures and small sets: on from any encoder, minutes on two CPU cores.

    tutelage finetune RUN --data fashion-mnist --epochs 2

The encoder's own size; MAE's recipe, milder, as a short run on small pictures learns less from hard ones (docs/results.md):
crops of 50 to 100 % and flips alone, no mixing, layer decay 0.9, drop path 0.1. From scratch: tutelage pretrain
finetune-quickstart.
Source: ours, for a first try; no paper has this setting.
Expected: above the same network from scratch; docs/results.md has what was measured here.
"""

from tutelage.data.views import SimpleView, ViewsSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.finetune import FinetuneSettings

RECIPE = RunSettings[FinetuneSettings](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(
        name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4, drop_path=0.1
    ),
    method=FinetuneSettings(view="weak", mixup=0.0, cutmix=0.0),
    optim=OptimSettings(
        base_lr=8e-3, betas=(0.9, 0.999), decay_tokens=False, layer_decay=0.9, warmup_epochs=1, min_lr=1e-6
    ),
    views=ViewsSettings(weak=SimpleView(scale=(0.5, 1.0))),
)
