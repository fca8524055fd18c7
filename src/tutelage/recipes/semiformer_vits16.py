"""Semiformer, ViT-S/16 beside ResNet-50, 600 epochs on ImageNet-1K with a tenth of its labels (Weng et al., ECCV 2022).

    torchrun --nproc-per-node 8 -m tutelage pretrain semiformer-vits16 --data IMAGENET --labels 10%

Source: its code (wengzejia1/Semiformer, 0e3b5be, read for facts): AdamW, lr 1e-3 to 1e-5 along a cosine after 5 epochs in which
it rises, weight decay 0.05, drop path 0.1, threshold 0.7, weight 4, label smoothing 0.1, 30 epochs of warm-up, 1 labelled to 7,
108 pictures a process on 8 (here 1024 in all: 128 + 896).
Not as there (docs/methods/semiformer.md): tokens of pixels, positions, timm's ResNet, epochs counted in unlabelled pictures.
Expected: ImageNet-1K top-1 75.5 %, with a tenth of the labels.
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.mae import MAESettings
from tutelage.methods.semiformer import SemiformerSettings

RECIPE = RunSettings[SemiformerSettings[MAESettings]](
    epochs=600,
    batch_size=1024,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_small_patch16_224", drop_path=0.1),
    method=SemiformerSettings[MAESettings](),
    optim=OptimSettings(base_lr=2.5e-4, betas=(0.9, 0.999), warmup_epochs=5, min_lr=1e-5),
)
