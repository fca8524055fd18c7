"""Semi-MAE, ViT-S/16, 100 + 600 epochs on ImageNet-1K with a tenth of its labels (Yu et al., 2023, arXiv:2301.01431).

    torchrun --nproc-per-node 8 -m tutelage pretrain semi-mae-vits16 --data IMAGENET --labels 10%

Source: section 4.1: AdamW, lr 1e-3 to 1e-5 along a cosine, lambda 10, mu 5, labelled to unlabelled 1 to 7, 100 epochs of
warm-up and 600 with guesses; branch MAE as published (mask 0.75, decoder 512 x 8 x 16), its pixels as they are.
Not in the paper (docs/methods/semi_mae.md): threshold 0.7, batch 128 + 896, betas, weight decay 0.05, drop path 0.1, views,
5 epochs in which the learning rate rises.
Expected: ImageNet-1K top-1 75.9 % of the classifier (Table 1).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.mae import MAESettings
from tutelage.methods.semi_mae import SemiMAESettings

RECIPE = RunSettings[SemiMAESettings[MAESettings]](
    epochs=700,
    batch_size=1024,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_small_patch16_224", drop_path=0.1),
    method=SemiMAESettings[MAESettings](branch=MAESettings(norm_pix=False)),
    optim=OptimSettings(base_lr=2.5e-4, betas=(0.9, 0.999), warmup_epochs=5, min_lr=1e-5),
)
