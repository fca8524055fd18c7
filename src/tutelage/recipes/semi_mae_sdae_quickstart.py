"""Semi-MAE with SdAE as its branch, for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain semi-mae-sdae-quickstart --data fashion-mnist --labels 250

As semi-mae-quickstart, with a teacher's tokens for a target (see sdae-quickstart) in place of pixels.
Source: ours; no paper has this setting.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.data.strong import StrongView
from tutelage.data.views import SimpleView, ViewsSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.sdae import SdAESettings
from tutelage.methods.semi_mae import SemiMAESettings
from tutelage.recipes import sdae_quickstart

RECIPE = RunSettings[SemiMAESettings[SdAESettings]](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4),
    method=SemiMAESettings[SdAESettings](
        unlabelled_weight=1.0, threshold=0.95, branch_weight=1.0, branch=sdae_quickstart.RECIPE.method
    ),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1),
    views=ViewsSettings(weak=SimpleView(scale=(0.5, 1.0)), strong=StrongView(scale=(0.5, 1.0))),
)
