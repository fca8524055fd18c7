"""Mask R-CNN of COCO on a ViT-B/16 for 25 epochs, as PseudoMAE's text has it.

    torchrun --nproc-per-node 16 -m tutelage detect RUN --data COCO --recipe detect-vitb16-coco-25

As detect-vitb16-coco, but for its length: the learning rate falls at epochs 9 and 11 all the same, so that more than half of
the run is at a hundredth of it.
Source: PseudoMAE (arXiv:2406.17450), section 4 and appendix, "1x" schedule of 25 epochs.
Expected: not told apart from the 12 epochs of detect-vitb16-coco in the paper's Table 5.
Not verified here.
"""

from tutelage.recipes.detect_vitb16_coco import RECIPE as COCO

RECIPE = COCO.model_copy(update={"epochs": 25})
