"""LoMaR, ViT-B/16, 400 epochs on ImageNet-1K (Chen et al., WACV 2025, arXiv:2206.00790).

    torchrun --nproc-per-node 8 -m tutelage pretrain lomar-vitb16 --data IMAGENET --micro-batch 64

Source: the command of its README: AdamW (0.9, 0.95), base lr 1.5e-4 per 256, batch 4096 (256 x 4 processes x 4 accumulated),
warm-up 20 epochs, weight decay 0.05, 4 windows of 7 x 7 patches, 39 of 49 hidden, standardised pixels, relative positions.
Its released weights were trained for 1600 epochs (--epochs 1600).
Expected: ImageNet-1K top-1 84.1 % fine-tuned (the abstract, which does not say after how many epochs; finetune-vitb16 has the
setting of its code).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.lomar import LoMaRSettings

RECIPE = RunSettings[LoMaRSettings](
    epochs=400,
    batch_size=4096,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", positions="relative"),
    method=LoMaRSettings(),
    optim=OptimSettings(base_lr=1.5e-4, warmup_epochs=20),
)
