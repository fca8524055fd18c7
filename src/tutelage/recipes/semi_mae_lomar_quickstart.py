"""Semi-MAE with LoMaR as its branch, for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain semi-mae-lomar-quickstart --data fashion-mnist --labels 250

As semi-mae-quickstart, with LoMaR's windows (see lomar-quickstart) in place of MAE's mask: no decoder, and relative positions.
Source: ours; no paper has this setting.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.data.strong import StrongView
from tutelage.data.views import SimpleView, ViewsSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.lomar import LoMaRSettings
from tutelage.methods.semi_mae import SemiMAESettings

RECIPE = RunSettings[SemiMAESettings[LoMaRSettings]](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(
        name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4, positions="relative"
    ),
    method=SemiMAESettings[LoMaRSettings](
        unlabelled_weight=1.0,
        threshold=0.95,
        branch_weight=1.0,
        branch=LoMaRSettings(window=4),
    ),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1),
    views=ViewsSettings(weak=SimpleView(scale=(0.5, 1.0)), strong=StrongView(scale=(0.5, 1.0))),
)
