"""Fine-tuning, ViT-S/16, 300 epochs on ImageNet-1K: RC-MAE's.

    torchrun --nproc-per-node 8 -m tutelage finetune ENCODER --data IMAGENET --recipe finetune-vits16-rc-mae

AdamW (0.9, 0.999), weight decay 0.05 (not of biases, norms, tokens and positions), cosine to 1e-6; crops of 8 to 100 %,
RandAugment (9, 0.5), erasing 0.25, mixup 0.8, cutmix 1, label smoothing 0.1; the mean of the patch tokens; no EMA.
Source: arXiv:2210.02077's code (base lr 5e-4 per 256 pictures, layer decay 0.75, drop path 0.1; 300 epochs, where its
pretraining script has 200).
Expected: ImageNet-1K top-1 82.0 % from rc-mae-vits16 (its README).
Not verified here.
"""

from tutelage.recipes.finetune_vits16 import RECIPE as FINETUNE

RECIPE = FINETUNE.changed(epochs=300)
