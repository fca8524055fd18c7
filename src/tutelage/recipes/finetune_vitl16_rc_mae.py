"""Fine-tuning, ViT-L/16, 100 epochs on ImageNet-1K: RC-MAE's.

    torchrun --nproc-per-node 8 -m tutelage finetune ENCODER --data IMAGENET --recipe finetune-vitl16-rc-mae

AdamW (0.9, 0.999), weight decay 0.05 (not of biases, norms, tokens and positions), cosine to 1e-6; crops of 8 to 100 %,
RandAugment (9, 0.5), erasing 0.25, mixup 0.8, cutmix 1, label smoothing 0.1; the mean of the patch tokens; no EMA.
Source: arXiv:2210.02077's code (base lr 5e-4 per 256 pictures, layer decay 0.65, drop path 0.2, 100 epochs).
Expected: ImageNet-1K top-1 86.1 % from rc-mae-vitl16 (its README).
Not verified here.
"""

from tutelage.recipes.finetune_vitl16 import RECIPE as FINETUNE

RECIPE = FINETUNE.changed(epochs=100, optim={"base_lr": 5e-4, "layer_decay": 0.65})
