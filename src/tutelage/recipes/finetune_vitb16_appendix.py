"""Fine-tuning, ViT-B/16, as the appendix of PseudoMAE has it: twice the batch, twice the warm-up.

    torchrun --nproc-per-node 8 -m tutelage finetune ENCODER --data IMAGENET --recipe finetune-vitb16-appendix

AdamW (0.9, 0.999), weight decay 0.05 (not of biases, norms, tokens and positions), cosine to 1e-6; crops of 8 to 100 %,
RandAugment (9, 0.5), erasing 0.25, mixup 0.8, cutmix 1, label smoothing 0.1; the mean of the patch tokens; no EMA.
Source: arXiv:2406.17450, appendix (batch 2048, base lr 5e-4 per 256 pictures, layer decay 0.65, warm-up 10).
Expected: ImageNet-1K top-1 84.1 % from PseudoMAE, if this is the setting of its Table 2.
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.finetune import FinetuneSettings

RECIPE = RunSettings[FinetuneSettings](
    epochs=100,
    batch_size=2048,
    holdout=0.0,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", drop_path=0.1),
    method=FinetuneSettings(),
    optim=OptimSettings(
        base_lr=5e-4, betas=(0.9, 0.999), decay_tokens=False, layer_decay=0.65, warmup_epochs=10, min_lr=1e-6
    ),
)
