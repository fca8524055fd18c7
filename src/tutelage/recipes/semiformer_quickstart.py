"""Semiformer for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6 beside a ResNet-18.

    tutelage pretrain semiformer-quickstart --data fashion-mnist --labels 250

As fixmatch-quickstart, with a convolutional stream that guesses the labels: its ratio, threshold, weight and crops, for what
is published for ImageNet teaches a short run one class (docs/results.md). Some five hours on two cores, fewer with `--epochs`.
Source: ours, for a first try; no paper has this setting.
Expected: docs/results.md has what was measured here.
"""

from tutelage.data.strong import StrongView
from tutelage.data.views import SimpleView, ViewsSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.mae import MAESettings
from tutelage.methods.semiformer import SemiformerSettings

RECIPE = RunSettings[SemiformerSettings[MAESettings]](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4),
    method=SemiformerSettings[MAESettings](
        conv="resnet18",
        unlabelled_weight=1.0,
        unlabelled_ratio=1,
        threshold=0.6,
        max_warmup_share=1 / 7,
        label_smoothing=0.0,
    ),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1),
    views=ViewsSettings(weak=SimpleView(scale=(0.5, 1.0)), strong=StrongView(scale=(0.5, 1.0))),
)
