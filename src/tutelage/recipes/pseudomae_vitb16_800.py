"""PseudoMAE, ViT-B/16, 800 epochs on ImageNet-1K, as its main text says (arXiv:2406.17450, section 4).

    torchrun --nproc-per-node 8 -m tutelage pretrain pseudomae-vitb16-800 --data IMAGENET

Source: sections 3.1 to 3.3 and 4, appendix A: AdamW (0.9, 0.95), base lr 2.666e-4 per 256 (8e-4 at 768), warm-up 60 epochs,
weight decay 0.05, drop path 0.25, mask 0.75, 3 folds for both teachers, 4096 prototypes, reconstruction teacher once an
epoch 0.96 to 0.99, labelling teacher every step 0.996 to 1, all loss weights 1. Simple views as MAE, complex as DINO.
Where the paper is silent, docs/methods/pseudomae.md says what was chosen and why.
Expected: no number is given for 800 epochs; the tables are of 300.
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.pseudomae import PseudoMAESettings

RECIPE = RunSettings[PseudoMAESettings](
    epochs=800,
    batch_size=768,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", drop_path=0.25),
    method=PseudoMAESettings(),
    optim=OptimSettings(base_lr=2.666e-4, warmup_epochs=60),
)
