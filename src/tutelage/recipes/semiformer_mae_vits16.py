"""Semiformer with Semi-MAE's masked branch, ViT-S/16 beside ResNet-50, a tenth of ImageNet-1K's labels (arXiv:2301.01431).

    torchrun --nproc-per-node 8 -m tutelage pretrain semiformer-mae-vits16 --data IMAGENET --labels 10%

Source: Semi-MAE (Yu et al., 2023), Table 2: MAE around Semiformer's transformer, on the weak view of the unlabelled pictures.
All else is semiformer-vits16's, the branch semi-mae-vits16's: mask 0.75, decoder 512 x 8 x 16, pixels as they are, weight 5.
Not in the paper: what the branch weighs here, and whether it learns in the warm-up (here it does not).
Expected: ImageNet-1K top-1 76.4 %, with a tenth of the labels; 75.5 % without the branch.
Not verified here.
"""

from tutelage.recipes.semiformer_vits16 import RECIPE as SEMIFORMER

RECIPE = SEMIFORMER.changed(method={"branch": {"name": "mae", "norm_pix": False}})
