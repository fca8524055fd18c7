"""Fine-tuning, ViT-L/16, as the appendix of PseudoMAE has it: MAE's with twice the batch.

    torchrun --nproc-per-node 8 -m tutelage finetune ENCODER --data IMAGENET --recipe finetune-vitl16-appendix

AdamW (0.9, 0.999), weight decay 0.05 (not of biases, norms, tokens and positions), cosine to 1e-6; crops of 8 to 100 %,
RandAugment (9, 0.5), erasing 0.25, mixup 0.8, cutmix 1, label smoothing 0.1; the mean of the patch tokens; no EMA.
Source: arXiv:2406.17450, appendix (50 epochs, batch 2048, base lr 1e-3 per 256 pictures, so 8e-3, layer decay 0.75, drop path
0.2, warm-up 5).
Expected: unknown; the paper reports no ViT-L.
Not verified here.
"""

from tutelage.recipes.finetune_vitl16 import RECIPE as FINETUNE

RECIPE = FINETUNE.changed(batch_size=2048)
