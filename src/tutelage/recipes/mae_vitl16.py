"""MAE, ViT-L/16, 800 epochs on ImageNet-1K (He et al., CVPR 2022, arXiv:2111.06377).

    torchrun --nproc-per-node 8 -m tutelage pretrain mae-vitl16 --data IMAGENET --micro-batch 64

Source: section 4 and appendix A.1, Table 8: AdamW (0.9, 0.95), base lr 1.5e-4 per 256, batch 4096, warm-up 40 epochs,
weight decay 0.05, mask 0.75, standardised pixels, crop and flip; decoder 512 x 8 x 16.
Expected: fine-tuned ImageNet-1K top-1 85.9 % after 1600 epochs (Table 3), 84.9 % after 800 (Table 1).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.mae import MAESettings

RECIPE = RunSettings[MAESettings](
    epochs=800,
    batch_size=4096,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_large_patch16_224"),
    method=MAESettings(),
    optim=OptimSettings(base_lr=1.5e-4, warmup_epochs=40),
)
