"""Semiformer with a masked branch for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6 beside a ResNet-18.

    tutelage pretrain semiformer-mae-quickstart --data fashion-mnist --labels 250

As semiformer-quickstart, with a masked autoencoder around the transformer, which weighs as much: semi-mae-quickstart's branch.
Source: Semi-MAE (arXiv:2301.01431), Table 2, for the two together; the settings are ours, for a first try.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.recipes.semiformer_quickstart import RECIPE as SEMIFORMER

RECIPE = SEMIFORMER.changed(
    method={"branch_weight": 1.0, "branch": {"name": "mae", "decoder": {"width": 96, "depth": 2, "heads": 3}}}
)
