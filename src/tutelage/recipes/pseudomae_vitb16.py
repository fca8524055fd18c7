"""PseudoMAE, ViT-B/16, 300 epochs on ImageNet-1K (Nandam et al., BMVC 2024, arXiv:2406.17450).

    torchrun --nproc-per-node 8 -m tutelage pretrain pseudomae-vitb16 --data IMAGENET

Source: sections 3.1 to 3.3 and 4, appendix A: AdamW (0.9, 0.95), base lr 2.666e-4 per 256 (8e-4 at 768), warm-up 60 epochs,
weight decay 0.05, drop path 0.25, mask 0.75, 3 folds for both teachers, 4096 prototypes, reconstruction teacher once an
epoch 0.96 to 0.99, labelling teacher every step 0.996 to 1, all loss weights 1. Simple views as MAE, complex as DINO.
The tables and the appendix say 300 epochs, the main text 800: see pseudomae-vitb16-800.
Where the paper is silent, docs/methods/pseudomae.md says what was chosen and why.
Expected: fine-tuned ImageNet-1K top-1 84.1 % (abstract page), ADE20K 49.1 mIoU, COCO 49.7 box AP (Tables 4 and 5).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.pseudomae import PseudoMAESettings

RECIPE = RunSettings[PseudoMAESettings](
    epochs=300,
    batch_size=768,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", drop_path=0.25),
    method=PseudoMAESettings(),
    optim=OptimSettings(base_lr=2.666e-4, warmup_epochs=60),
)
