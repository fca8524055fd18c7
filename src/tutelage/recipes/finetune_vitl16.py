"""Fine-tuning, ViT-L/16, 50 epochs on ImageNet-1K: MAE's.

    torchrun --nproc-per-node 8 -m tutelage finetune ENCODER --data IMAGENET --recipe finetune-vitl16

AdamW (0.9, 0.999), weight decay 0.05 (not of biases, norms, tokens and positions), cosine to 1e-6; crops of 8 to 100 %,
RandAugment (9, 0.5), erasing 0.25, mixup 0.8, cutmix 1, label smoothing 0.1; the mean of the patch tokens; no EMA.
Source: arXiv:2111.06377, Table 9 and its code (base lr 1e-3 per 256 pictures, layer decay 0.75, drop path 0.2, warm-up 5).
Expected: ImageNet-1K top-1 85.9 % from MAE after 1600 epochs.
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.finetune import FinetuneSettings

RECIPE = RunSettings[FinetuneSettings](
    epochs=50,
    batch_size=1024,
    holdout=0.0,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_large_patch16_224", drop_path=0.2),
    method=FinetuneSettings(),
    optim=OptimSettings(
        base_lr=1e-3, betas=(0.9, 0.999), decay_tokens=False, layer_decay=0.75, warmup_epochs=5, min_lr=1e-6
    ),
)
