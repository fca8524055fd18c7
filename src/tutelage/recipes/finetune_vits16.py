"""Fine-tuning, ViT-S/16, 50 epochs on ImageNet-1K: for the ablations of PseudoMAE.

    torchrun --nproc-per-node 8 -m tutelage finetune ENCODER --data IMAGENET --recipe finetune-vits16

AdamW (0.9, 0.999), weight decay 0.05 (not of biases, norms, tokens and positions), cosine to 1e-6; crops of 8 to 100 %,
RandAugment (9, 0.5), erasing 0.25, mixup 0.8, cutmix 1, label smoothing 0.1; the mean of the patch tokens; no EMA.
The paper gives the 50 epochs alone; base lr, layer decay and drop path are those of RC-MAE's ViT-S.
Source: arXiv:2406.17450, section 5; arXiv:2210.02077's code (base lr 5e-4 per 256 pictures, layer decay 0.75, drop path 0.1).
Expected: ImageNet-1K top-1 74.8 % from pseudomae-vits16 (Table 8).
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
    backbone=BackboneSettings(name="vit_small_patch16_224", drop_path=0.1),
    method=FinetuneSettings(),
    optim=OptimSettings(
        base_lr=5e-4, betas=(0.9, 0.999), decay_tokens=False, layer_decay=0.75, warmup_epochs=5, min_lr=1e-6
    ),
)
