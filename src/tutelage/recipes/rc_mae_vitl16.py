"""RC-MAE, ViT-L/16, 1600 epochs on ImageNet-1K (Lee et al., ICLR 2023, arXiv:2210.02077).

    torchrun --nproc-per-node 8 -m tutelage pretrain rc-mae-vitl16 --data IMAGENET --micro-batch 64

Source: the paper's appendix and the script of its repository: AdamW (0.9, 0.95), base lr 1.5e-4 per 256, batch 4096, warm-up
40 epochs, weight decay 0.05, mask 0.75, standardised pixels, crop and flip, gamma 1, teacher every step with momentum
0.996 to 1, the same mask for both; decoder 512 x 8 x 16.
Expected: ImageNet-1K top-1 86.1 % (its README), fine-tuned from the teacher (finetune-vitl16-rc-mae).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.rc_mae import RCMAESettings

RECIPE = RunSettings[RCMAESettings](
    epochs=1600,
    batch_size=4096,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_large_patch16_224"),
    method=RCMAESettings(),
    optim=OptimSettings(base_lr=1.5e-4, warmup_epochs=40),
)
