"""Weak supervision by hashtags alone, ViT-B/16: the control of pre-pretraining (Singh et al., ICCV 2023, arXiv:2303.13496).

    torchrun --nproc-per-node 8 -m tutelage pretrain weakly-supervised-vitb16 --data PHOTOS --tags TAGS.csv --micro-batch 64

Source: as the second run of pre-pretraining-vitb16, from random weights.
Expected: less than pre-pretraining-vitb16, by the paper's figures; the number itself is in a chart. Not verified here.
"""

from tutelage.recipes.pre_pretraining_vitb16 import RECIPE as PRE_PRETRAINING

RECIPE = PRE_PRETRAINING.model_copy(update={"first": None, "first_epochs": None})
