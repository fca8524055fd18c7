"""Fine-tuning, ViT-B/16, on the labels of 10 % of ImageNet-1K: Semi-ViT's, before it learns from the other pictures.

    torchrun --nproc-per-node 8 -m tutelage finetune ENCODER --data IMAGENET --recipe finetune-vitb16-10percent

100 epochs of the labelled pictures, batch 512, layer decay 0.65, weight decay 0.05 (not of biases, norms, tokens and
positions), warm-up 5, cosine to 1e-6; crops of 8 to 100 %, RandAugment (9, 0.5), erasing 0.25, mixup 0.8, cutmix 1, label
smoothing 0.1, drop path 0.1; the mean of the patch tokens. The labels are 10 % drawn by the seed, as nearly as possible alike
in every class; --labels TABLE.csv (columns path and label) takes those of a published list.
Source: Semi-ViT (arXiv:2208.05688), published code, FINETUNE.md (base lr 2.5e-4 per 256 pictures).
Expected: ImageNet-1K top-1 73.7 % from MAE.
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.finetune import FinetuneSettings

RECIPE = RunSettings[FinetuneSettings](
    labels="10%",
    epochs=100,
    batch_size=512,
    holdout=0.0,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", drop_path=0.1),
    method=FinetuneSettings(),
    optim=OptimSettings(
        base_lr=2.5e-4, betas=(0.9, 0.999), decay_tokens=False, layer_decay=0.65, warmup_epochs=5, min_lr=1e-6
    ),
)
