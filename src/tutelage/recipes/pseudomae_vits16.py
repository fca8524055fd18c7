"""PseudoMAE, ViT-S/16, 100 epochs on ImageNet-1K: the setting of its ablations (arXiv:2406.17450, section 5).

    torchrun --nproc-per-node 8 -m tutelage pretrain pseudomae-vits16 --data IMAGENET

Source: sections 3.1 to 3.3 and 4, appendix A: AdamW (0.9, 0.95), base lr 2.666e-4 per 256 (8e-4 at 768), warm-up 20 epochs,
weight decay 0.05, drop path 0.25, mask 0.75, 3 folds for both teachers, 4096 prototypes, reconstruction teacher once an
epoch 0.96 to 0.99, labelling teacher every step 0.996 to 1, all loss weights 1. Simple views as MAE, complex as DINO.
The warm-up of 0.2 x epochs follows a comment in SdAE's code; the paper gives none for 100 epochs.
Where the paper is silent, docs/methods/pseudomae.md says what was chosen and why.
Expected: fine-tuned (50 epochs) ImageNet-1K top-1 74.82 % (Table 8).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.pseudomae import PseudoMAESettings

RECIPE = RunSettings[PseudoMAESettings](
    epochs=100,
    batch_size=768,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_small_patch16_224", drop_path=0.25),
    method=PseudoMAESettings(),
    optim=OptimSettings(base_lr=2.666e-4, warmup_epochs=20),
)
