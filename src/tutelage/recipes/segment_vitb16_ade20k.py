"""Semantic segmentation of ADE20K with UPerNet on a ViT-B/16, as SdAE's, CAE's and BEiT's (160,000 steps of 16 pictures).

    torchrun --nproc-per-node 8 -m tutelage segment RUN --data ADEChallengeData2016 --recipe segment-vitb16-ade20k

Crops of 512 px of pictures at 50 to 200 %, layer decay 0.65, drop path 0.1, 1,500 steps of warm-up, then a straight line to 0.
All 20,210 pictures are trained on (docs/methods/finetune.md says how such a run is watched). PseudoMAE's main text says that it
"follows MAE", its appendix gives these (docs/methods/segmentation.md).
Source: PseudoMAE (arXiv:2406.17450), appendix and Table 4; SdAE and CAE, published code.
Expected: mIoU 49.1 with PseudoMAE's encoder after 300 epochs, 48.6 with SdAE's, 48.1 with MAE's after 1,600 (Table 4).
Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.segmentation import SegmentationSettings

RECIPE = RunSettings[SegmentationSettings](
    epochs=160_000 * 16 / 20_210,
    batch_size=16,
    holdout=0.0,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", image_size=512, drop_path=0.1, positions="learned"),
    method=SegmentationSettings(),
    optim=OptimSettings(
        base_lr=4e-4 * 256 / 16,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        decay_tokens=False,
        layer_decay=0.65,
        warmup_epochs=1_500 * 16 / 20_210,
        schedule="poly",
    ),
)
