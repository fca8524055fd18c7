"""Semi-MAE for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6; an hour or more on two CPU cores.

    tutelage pretrain semi-mae-quickstart --data fashion-mnist --labels 250

FixMatch (see fixmatch-quickstart) with a masked autoencoder beside it, on the same encoder, which weighs as much.
Source: ours, for a first try; no paper has this setting.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.data.strong import StrongView
from tutelage.data.views import SimpleView, ViewsSettings
from tutelage.decoder import DecoderSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.mae import MAESettings
from tutelage.methods.semi_mae import SemiMAESettings

RECIPE = RunSettings[SemiMAESettings[MAESettings]](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4),
    method=SemiMAESettings[MAESettings](
        unlabelled_weight=1.0,
        threshold=0.95,
        branch_weight=1.0,
        branch=MAESettings(decoder=DecoderSettings(width=96, depth=2, heads=3)),
    ),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1),
    views=ViewsSettings(weak=SimpleView(scale=(0.5, 1.0)), strong=StrongView(scale=(0.5, 1.0))),
)
