"""SdAE, ViT-B/16, 300 epochs on ImageNet-1K (Chen et al., ECCV 2022, arXiv:2208.00449).

    torchrun --nproc-per-node 8 -m tutelage pretrain sdae-vitb16 --data IMAGENET

Source: the paper's section 4 and the command of its README as PseudoMAE's appendix A repeats it: AdamW (0.9, 0.95), base lr
2.666e-4 per 256 (8e-4 at 768), warm-up 60 epochs, weight decay 0.05, drop path 0.25, mask 0.75, 3 folds, teacher once an
epoch with momentum 0.96 to 0.99; decoder 512 x 8 x 16.
Expected: ADE20K 48.6 mIoU, COCO 48.9 box AP (quoted in PseudoMAE, Tables 4 and 5).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.sdae import SdAESettings

RECIPE = RunSettings[SdAESettings](
    epochs=300,
    batch_size=768,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", drop_path=0.25),
    method=SdAESettings(),
    optim=OptimSettings(base_lr=2.666e-4, warmup_epochs=60, weight_decay=0.05),
)
