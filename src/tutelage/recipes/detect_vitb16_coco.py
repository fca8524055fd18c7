"""Mask R-CNN of COCO on a ViT-B/16, as CAE's and PseudoMAE's table (12 epochs of 32 pictures).

    torchrun --nproc-per-node 16 -m tutelage detect RUN --data COCO --recipe detect-vitb16-coco

COCO has annotations/instances_{train,val}2017.json, train2017 and val2017. Short sides of 480 to 800 px, half of the pictures
after DETR's crop, layer decay 0.75, drop path 0.2, 500 steps of warm-up, a tenth of the learning rate from epoch 9 and again
from 11. Pictures lie on a square of 1344 px, so that upright ones fit. Every training picture is trained on
(docs/methods/finetune.md says how such a run is watched).
Source: CAE, published code, whose protocol PseudoMAE's Table 5 is read by (docs/methods/detection.md).
Expected: AP of boxes 49.7 and of masks 43.1 with PseudoMAE's encoder, 48.4 and 42.6 with MAE's after 1,600 epochs (Table 5).
Not verified here.
"""

from tutelage.data.joint import DetectView
from tutelage.data.views import ViewsSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.detection import DetectionSettings

RECIPE = RunSettings[DetectionSettings](
    epochs=12,
    batch_size=32,
    holdout=0.0,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224", image_size=1344, drop_path=0.2, positions="learned"),
    method=DetectionSettings(),
    optim=OptimSettings(
        base_lr=3e-4 * 256 / 32,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        decay_tokens=False,
        layer_decay=0.75,
        warmup_epochs=500 * 32 / 117_266,
        schedule="steps",
        drops=(9, 11),
    ),
    views=ViewsSettings(detect=DetectView(short=tuple(range(480, 801, 32)), crop=0.5)),
)
