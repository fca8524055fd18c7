"""SdAE, ViT-S/16, 100 epochs on ImageNet-1K, as PseudoMAE's ablations run it (arXiv:2406.17450, Table 6).

    torchrun --nproc-per-node 8 -m tutelage pretrain sdae-vits16 --data IMAGENET

Source: the paper's section 4 and the command of its README as PseudoMAE's appendix A repeats it: AdamW (0.9, 0.95), base lr
2.666e-4 per 256 (8e-4 at 768), warm-up 20 epochs, weight decay 0.05, drop path 0.25, mask 0.75, 3 folds, teacher once an
epoch with momentum 0.96 to 0.99; decoder 512 x 8 x 16. The warm-up of 0.2 x epochs follows a comment in SdAE's code.
Expected: fine-tuned (50 epochs) ImageNet-1K top-1 74.19 % (PseudoMAE, Tables 6 and 8).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.sdae import SdAESettings

RECIPE = RunSettings[SdAESettings](
    epochs=100,
    batch_size=768,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_small_patch16_224", drop_path=0.25),
    method=SdAESettings(),
    optim=OptimSettings(base_lr=2.666e-4, warmup_epochs=20, weight_decay=0.05),
)
