"""Cascade Mask R-CNN of COCO on a ViT-B/16, as iBOT's and PseudoMAE's appendix (12 epochs of 16 pictures).

    torchrun --nproc-per-node 8 -m tutelage detect RUN --data COCO --recipe detect-vitb16-coco-cascade

As detect-vitb16-coco with three stages, a learning rate of 1e-4 and a tenth of it from epoch 8 and again from 11.
Source: iBOT, published code; PseudoMAE (arXiv:2406.17450), appendix, names a cascade.
Expected: PseudoMAE's Table 5 (49.7 and 43.1) if it is of a cascade, as the appendix says; its rows of others are not.
Not verified here.
"""

from tutelage.recipes.detect_vitb16_coco import RECIPE as COCO

_CHANGES = {
    "batch_size": 16,
    "method": COCO.method.model_copy(update={"stages": 3}),
    "optim": COCO.optim.model_copy(
        update={"base_lr": 1e-4 * 256 / 16, "warmup_epochs": 500 * 16 / 117_266, "drops": (8, 11)}
    ),
}

RECIPE = COCO.model_copy(update=_CHANGES)
